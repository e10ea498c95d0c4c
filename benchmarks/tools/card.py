"""What the model that ships says of itself: data, licences, how its encoder was tuned, figures.

    python benchmarks/tools/card.py MODEL WORK

Adds to ``MODEL/rabtriever.json`` and writes its ``README.md``; ``WORK/encoder.json`` is what encoder.py wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rabtriever.persistence.folder import read_config, write_config

DATASETS = {
    "MetaTool": ("MIT", "https://github.com/HowieHwong/MetaTool"),
    "CLINC150": ("CC BY 3.0", "https://github.com/clinc/oos-eval"),
    "HWU64": ("CC BY 4.0", "https://github.com/xliuhw/NLU-Evaluation-Data"),
    "BANKING77": ("CC BY 4.0", "https://github.com/PolyAI-LDN/task-specific-datasets"),
    "tldr-pages": ("CC BY 4.0", "https://github.com/tldr-pages/tldr"),
    "NL2Bash": ("MIT", "https://github.com/TellinaTool/nl2bash"),
    "ALFRED": ("MIT", "https://github.com/askforalfred/alfred"),
    "UltraTool (GNN4TaskPlan)": ("MIT", "https://github.com/WxxShirley/GNN4TaskPlan"),
    "Seal-Tools": ("Apache-2.0", "https://github.com/fairyshine/Seal-Tools"),
    "ToolRL": ("Apache-2.0", "https://github.com/qiancheng0/ToolRL"),
    "SayCan": ("CC BY 4.0", "https://github.com/say-can/say-can.github.io"),
}
FIGURES = {"MetaTool": "metatool", "CLINC150": "clinc150", "built-in task": "demo"}
RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Writes both files."""
    model, work = Path(sys.argv[1]), Path(sys.argv[2])
    config = read_config(model)
    tuning = json.loads((work / "encoder.json").read_text())
    config["encoder_tuning"] = {"of": "minilm", **{key: tuning[key] for key in tuning if key != "machine"}}
    config["datasets"] = [{"name": name, "license": of, "url": url} for name, (of, url) in DATASETS.items()]
    config.pop("refusal", None)  # of MetaTool and CLINC150; it would promise nothing for other people's documents
    config |= {"license": "Apache-2.0", "language": "en", "measures": measures()}
    write_config(model, config, model.name)


def measures() -> dict[str, dict[str, float]]:
    """Returns R@1 by task and system, where figures.sh has measured it."""
    found = {}
    for task, name in FIGURES.items():
        systems = json.loads((RESULTS / f"{name}.json").read_text())["result"]["systems"]
        found[task] = {f"R@1 {system}": values["R@1"] for system, values in systems.items()}
    return found


if __name__ == "__main__":
    main()
