"""The options of the command line, each named and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_DATA = "CSV, TSV, JSONL, JSON or Parquet file; folder with train, dev and test; hub data set."
_RECIPE = "Shipped recipe or YAML file; auto chooses by kind and size."
_RESUME = "Go on with a run that was stopped; the result is the same, bit for bit."


def _argument(kind: Any, metavar: str, text: str) -> Any:
    return Annotated[kind, typer.Argument(metavar=metavar, help=text)]


def _option(kind: Any, *names: str, text: str, metavar: str | None = None, least: int | None = None) -> Any:
    return Annotated[kind, typer.Option(*names, help=text, metavar=metavar, min=least)]


def _seed(name: str, what: str) -> Any:
    return _option(int | None, f"--{name}-seed", text=f"Sets the seed of {what} alone.", metavar="N", least=0)


Data = _argument(str, "DATA", _DATA)
Texts = _argument(str, "DATA", "File with the texts; labels are not read.")
Folder = _argument(str, "DIR", "Folder that temper fit wrote.")
StudyFolder = _argument(Path, "DIR", "Folder that temper compare wrote.")
Topic = _argument(str | None, "TOPIC", "recipes, tunings, framings, stabilizers, stages or models.")
Recipe = _argument(str, "RECIPE", "Shipped recipe, YAML file, or auto.")
Settings = _argument(list[str] | None, "KEY=VALUE", "Settings of the recipe: learning_rate=5e-5, tuning.r=4.")
Words = _argument(list[str] | None, "DATA|KEY=VALUE", "A data file first, to count steps on; settings of the recipe.")

Dev = _option(str | None, "--dev", metavar="FILE", text="Development rows; else a fifth of DATA is held out.")
Test = _option(str | None, "--test", metavar="FILE", text="Test rows, read once, at the end.")
Text = _option(str | None, "--text", metavar="COLUMN", text="Column of the text; else found by its usual names.")
Pair = _option(str | None, "--text-pair", metavar="COLUMN", text="Column of the second text of a pair.")
Label = _option(str | None, "--label", metavar="COLUMN", text="Column of the label, or several 0/1 columns: a,b,c.")
Kind = _option(str | None, "--kind", metavar="KIND", text="classification, regression or multilabel; else seen from the labels.")
Model = _option(str, "--model", metavar="NAME", text="Folder, hub id (owner/name) or minilm.")
Reader = _option(str | None, "--model", metavar="NAME", text="Model whose tokens and limit texts are measured in.")
Fitted = _option(str, "--recipe", "--config", metavar="NAME|FILE", text=_RECIPE)
Seed = _option(int, "--seed", metavar="N", text="Decides every random draw.", least=0)
SamplingSeed = _seed("sampling", "held-out rows")
InitSeed = _seed("init", "new weights")
OrderSeed = _seed("order", "the order of rows")
DropoutSeed = _seed("dropout", "dropout")
Metrics = _option(list[str] | None, "--metric", metavar="NAME", text="A further metric, or module:function; repeatable.")
ReportTo = _option(list[str] | None, "--report-to", metavar="NAME", text="tensorboard, mlflow, wandb or trackio; repeatable.")
OutputDir = _option(Path, "--output-dir", metavar="DIR", text="Folder for the results.")
Predictions = _option(Path | None, "--output", metavar="FILE", text="CSV, TSV or JSONL by its ending; else CSV on the screen.")
Output = _option(Path | None, "--output", metavar="FILE", text="File for the report; else the screen (html: report.html in DIR).")
Resume = _option(bool, "--resume", text=_RESUME)
Overwrite = _option(bool, "--overwrite", text="Replace what is in the output folder.")
Merge = _option(bool, "--merge", text="Fold the tuning into the weights before saving.")
Strict = _option(bool, "--strict", text="Exit with 1 if a finding makes results meaningless.")
DryRun = _option(bool, "--dry-run", text="Print the plan; train and write nothing.")
Json = _option(bool, "--json", text="Print JSON.")
Recipes = _option(str, "--recipes", metavar="A,B,...", text="Recipes to compare: names or YAML files.")
Sizes = _option(str, "--sizes", metavar="N,...,all", text="Numbers of training rows.")
Seeds = _option(int, "--seeds", metavar="N", text="Runs of each recipe and size, paired across recipes.", least=1)
Budget = _option(int, "--budget", metavar="N", text="Settings tried for each recipe, the same number for all.", least=1)
Workers = _option(int, "--workers", metavar="N", text="1: every run in a child process, so that one out of memory ends alone.", least=0)
Form = _option(str, "--format", metavar="FORM", text="html, table, json or md.")
Version = _option(bool, "--version", text="Print the version.")
