"""Search over many models of one recipe: settings of methods, and how far each metric can be trusted."""
