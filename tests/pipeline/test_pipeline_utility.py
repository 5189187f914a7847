"""A whole run with general benchmarks: asked of every model, scored, and shown beside retain and celebrity."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mini_run import run

from mllmu.core.records import Sample
from mllmu.core.runfolder import read_lines

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from test_evaluation_utility import write_llava_bench, write_mmmu


def test_general_benchmarks_stand_beside_retain_and_celebrity(base: Path, tmp_path: Path) -> None:
    write_mmmu(tmp_path / "mmmu")
    write_llava_bench(tmp_path / "bench")
    named = f"[{{name: mmmu, path: {tmp_path}/mmmu, max_new_tokens: 4}}, "
    named += f"{{name: llava_bench, path: {tmp_path}/bench, max_new_tokens: 4}}]"
    small = ("data.celebrities=null", "data.splits.holdout=0", "finetune.epochs=1", "evaluate.tasks=[classification]")
    root = run(base, tmp_path / "run", f"evaluate.benchmarks={named}", "unlearn.methods=[prompting]", *small)
    samples = read_lines(root / "eval" / "forget_40" / "samples.jsonl", Sample)
    asked = [s for s in samples if s.split in ("mmmu", "llava_bench")]
    assert [s.split for s in asked] == ["mmmu"] * 3 + ["llava_bench"] * 2
    assert all((root / "data" / s.image).is_file() for s in asked)
    results = json.loads((root / "eval" / "forget_40" / "metrics.json").read_text())["results"]
    for model in ("target", "retain_model", "prompting"):
        found = {(r["split"], r["task"], r["metric"]): r for r in results if r["model"] == model}
        assert found["mmmu", "classification", "mmmu_accuracy"]["num_profiles"] <= 2
        assert found["llava_bench", "generation", "rougeL"]["num"] == 2
        assert ("retain", "classification", "mmmu_accuracy") not in found
    page = (root / "report" / "index.html").read_text()
    assert "mmmu" in page
    assert "llava_bench" in page
    told = json.loads((root / "benchmarks" / "mmmu" / "account.json").read_text())
    assert (told["asked"], len(told["left_out"])) == (3, 3)
