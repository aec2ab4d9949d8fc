"""Help and lists, made from the YAML files and the model table, without importing torch."""

import re
from pathlib import Path

from recbole_llm.config.locate import available_datasets, recbole_dir
from recbole_llm.config.sources import parse_command_line
from recbole_llm.errors import MissingDependencyError
from recbole_llm.paths import dataset_atomic_dir, properties_dir
from recbole_llm.registry import FAMILIES, MODELS, recbole_models

# settings worth knowing first; their defaults and meaning are read from the overall.yaml files
_SHOWN = """
    protocol seed split_seed epochs train_batch_size learning_rate stopping_step valid_metric metrics topk
    mask_history evaluator placebo use_gpu gpu_id data_path run_dir show_progress
""".split()

_HELP = """\
usage: python run_recbole_llm.py --model=NAME --dataset=NAME [--config_files="a.yaml b.yaml"] [--KEY=VALUE ...]
       recbole-llm COMMAND ...     (train is the default, with the options below; the others have their own --help)

  compare    many models under one protocol: one table, paired tests, resumable
  ablate     one thing at a time switched off or exchanged in a model
  tune       the best settings of a model by validation, then tested once; on a laptop or a cluster
  report     Markdown, LaTeX, CSV and one HTML page from records
  reproduce  a run again from its record alone
  recommend  what a trained model recommends, and its embeddings, as files
  diagnose   faults of a model, its features and its data, as a page; with --graphs, feature graphs of items
  convert    public datasets' own files -> atomic files
  encode     texts and images -> feature files
  augment    attributes, profiles and edges by a language model
  audit      do texts about users name held-out items?
  doctor     what is installed, patched and missing

train runs one model, chooses its best epoch on validation rows, evaluates it once on test rows and prints the result.

examples
  python run_recbole_llm.py --model=UR4RecMoE --dataset=ml-100k           the main model
  python run_recbole_llm.py -m SASRec -d ml-100k --epochs=5 --seed 1      any model of RecBole, any of its settings
  python run_recbole_llm.py -m EASE -d ml-100k --protocol=loo-cand100     another protocol
  python run_recbole_llm.py -m UR4RecMoE -d ml-100k --config_files=UR4RecMoE-large.yaml
  python run_recbole_llm.py -m UR4RecMoE -d ml-100k '--visual_facets=[]' --json   one modality off, result as JSON

options
  -m, --model NAME          a model of this project or of RecBole
  -d, --dataset NAME        folder below data_path with <NAME>.inter; ml-100k comes with RecBole, nothing is downloaded
  --config_files "A B"      YAML files; a bare name is also looked up in {properties}
  --KEY=VALUE, --KEY VALUE  any setting; the value is YAML ([5,10], 1e-3, true, ~), nested ones: --eval_args.mode=full
  --resume                  go on from the last finished epoch of the same configuration
  --json                    print the result as one line of JSON; the log goes to stderr in any case
  --list                    list the models, datasets and protocols
  --debug                   show the traceback of an error
  -h, --help                this text

settings used most (default, meaning)
{settings}

protocols
{protocols}

A later source wins: RecBole's defaults, the plugin's, dataset, model, protocol, --config_files, --KEY=VALUE.
Results go to {run_dir}/, one folder a run: record, per-user metrics, log and checkpoints.
Exit codes: 0 well, 2 something you can mend (one sentence on stderr), 130 interrupted."""


def help_text() -> str:
    """The help of ``train``."""
    defaults = _defaults()
    width = max(len(f"{key} {value}") for key, value, _ in defaults) + 3
    settings = "\n".join(f"  {f'{key}: {value}':<{width}}{meaning}".rstrip() for key, value, meaning in defaults)
    run_dir = next(value for key, value, _ in defaults if key == "run_dir")
    return _HELP.format(properties=_short(properties_dir()), settings=settings, protocols=_protocols(), run_dir=run_dir)


def list_text(arguments: list[str]) -> str:
    """Names of the models, datasets and protocols.

    Args:
        arguments: options of the command line, for ``--data_path``.
    """
    width = max(map(len, MODELS)) + 2
    lines = ["models of this project", *(f"  {name:<{width}}{spec.summary}" for name, spec in MODELS.items())]
    try:
        for folder, family in FAMILIES.items():
            names = [name for name, (where, _) in recbole_models().items() if where == folder]
            lines += ["", f"RecBole's {family} models", *_wrapped(names)]
    except MissingDependencyError as error:
        lines += ["", str(error)]
    data_path = parse_command_line(arguments).get("data_path", _data_path())
    lines += ["", f"datasets (RecBole's own and those below {data_path})"]
    for name in available_datasets(data_path):
        folder = dataset_atomic_dir() / name
        features = sorted({file.name.split(".")[1] for file in folder.glob(f"{name}.*.safetensors")})
        lines.append(f"  {name}" + (f"   features: {', '.join(features)}" if features else ""))
    return "\n".join([*lines, "", "protocols", _protocols()])


def _defaults() -> list[tuple[str, str, str]]:
    """(key, default, meaning) of the settings shown in the help, the plugin's file before RecBole's."""
    found: dict[str, tuple[str, str, str]] = {}
    files = [properties_dir() / "overall.yaml"]
    try:
        files.append(recbole_dir() / "properties" / "overall.yaml")
    except FileNotFoundError:
        pass  # the help has to work before RecBole is installed
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            match = re.match(r"(\w+):\s*(.*?)\s*(?:#\s*(.*?)\s*)?$", line)
            if match and match[1] not in found:
                meaning = re.sub(r"^\([\w ]+\)\s*", "", match[3] or "")
                found[match[1]] = (match[1], match[2], meaning)
    return [found[key] for key in _SHOWN if key in found]


def _data_path() -> str:
    return next((value.strip("'\"") for key, value, _ in _defaults() if key == "data_path"), "dataset")


def _protocols() -> str:
    rows = []
    for file in sorted((properties_dir() / "protocol").glob("*.yaml")):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        rows.append(f"  {file.stem:<14}{first.lstrip('# ')}")
    return "\n".join(rows)


def _wrapped(names: list[str], width: int = 116) -> list[str]:
    lines = ["  "]
    for name in names:
        if len(lines[-1]) + len(name) > width:
            lines.append("  ")
        lines[-1] += f"{name} "
    return [line.rstrip() for line in lines]


def _short(path: Path) -> str:
    """The path relative to the working folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
