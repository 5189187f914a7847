"""Before a run: does the recipe fit the machine, and what exactly would be trained and asked?"""
