"""The options of the command line, each named and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_DATA = "CSV, TSV, JSONL, JSON, Parquet or CoNLL file; folder with train, dev and test; hub data set."
_KIND = "classification, regression, multilabel, tagging, question_answering or text; else seen from the data."
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
Corpus = _argument(str, "TEXT", "Text file, table, folder of them (also .gz), or data set; of any size.")
Folder = _argument(str, "DIR", "Folder that temper fit wrote.")
StudyFolder = _argument(Path, "DIR", "Folder that temper compare wrote.")
Folders = _argument(list[str], "DIR...", "Folders that temper fit wrote; several are added up.")
Topic = _argument(str | None, "TOPIC", "recipes, tunings, framings, verbalizers, stabilizers, stages or models.")
Recipe = _argument(str, "RECIPE", "Shipped recipe, YAML file, or auto.")
Settings = _argument(list[str] | None, "KEY=VALUE", "Settings of the recipe: learning_rate=5e-5, tuning.r=4.")
ComparedSettings = _argument(
    list[str] | None, "KEY=VALUE", "Settings of every recipe: tuning.r=4; of one alone: prime:stages.0.sources=[a,b]."
)
PromptSettings = _argument(
    list[str] | None, "KEY=VALUE", "Settings of the cloze: framing.fields=[sentence]; with --search, of the recipe: tuning.r=4."
)
Words = _argument(list[str] | None, "DATA|KEY=VALUE", "A data file first, to count steps on; settings of the recipe.")

Dev = _option(str | None, "--dev", metavar="FILE", text="Development rows; else a fifth of DATA is held out.")
Test = _option(str | None, "--test", metavar="FILE", text="Test rows, read once, at the end.")
Text = _option(str | None, "--text", metavar="COLUMN", text="Column of the text; else found by its usual names.")
Column = _option(str | None, "--column", metavar="COLUMN", text="Column of the texts in a table; else found by its usual names.")
Pair = _option(str | None, "--text-pair", metavar="COLUMN", text="Column of the second text of a pair.")
Label = _option(str | None, "--label", metavar="COLUMN", text="Column of the label, or several 0/1 columns: a,b,c.")
Kind = _option(str | None, "--kind", metavar="KIND", text=_KIND)
Model = _option(str, "--model", metavar="NAME", text="Folder, hub id (owner/name) or minilm.")
Quantize = _option(str | None, "--quantize", metavar="BITS", text="8bit or 4bit: pack the frozen matrices of the model.")
Base = _option(str | None, "--model", metavar="NAME", text="Where its base model is now, if not where it was.")
Reader = _option(str | None, "--model", metavar="NAME", text="Model whose tokens and limit texts are measured in.")
Fitted = _option(str, "--recipe", "--config", metavar="NAME|FILE", text=_RECIPE)
Adapted = _option(str, "--recipe", metavar="NAME|FILE", text="Recipe whose first stage is trained: dapt, madx-language ...")
Adapter = _option(bool, "--adapter", text="Keep what was trained apart from the model: kilobytes, for LoRA and adapters.")
Seed = _option(int, "--seed", metavar="N", text="Decides every random draw.", least=0)
SamplingSeed = _seed("sampling", "held-out rows")
InitSeed = _seed("init", "new weights")
OrderSeed = _seed("order", "the order of rows")
DropoutSeed = _seed("dropout", "dropout")
Metrics = _option(list[str] | None, "--metric", metavar="NAME", text="A further metric, or module:function; repeatable.")
ReportTo = _option(list[str] | None, "--report-to", metavar="NAME", text="tensorboard, mlflow, wandb or trackio; repeatable.")
OutputDir = _option(Path, "--output-dir", metavar="DIR", text="Folder for the results.")
Predictions = _option(Path | None, "--output", metavar="FILE", text="CSV, TSV, JSONL or CoNLL by its ending; else CSV on the screen.")
Output = _option(Path | None, "--output", metavar="FILE", text="File for the report; else the screen (html: report.html in DIR).")
Tries = _option(int, "--tries", metavar="N", text="Start N runs, stop the bad ones early, keep the best on dev.", least=1)
StopWorst = _option(float, "--stop-worst", metavar="SHARE", text="With --tries: the share of runs that is stopped.")
StopAt = _option(float, "--stop-at", metavar="SHARE", text="With --tries: how far into training they are judged.")
Resume = _option(bool, "--resume", text=_RESUME)
Overwrite = _option(bool, "--overwrite", text="Replace what is in the output folder.")
Merge = _option(bool, "--merge", text="Fold the tuning into the weights before saving.")
Weights = _option(str | None, "--weights", metavar="W,W,...", text="Weight of each change in the sum; else equal, adding up to 1.")
Strict = _option(bool, "--strict", text="Exit with 1 if a finding makes results meaningless.")
DryRun = _option(bool, "--dry-run", text="Print the plan; train and write nothing.")
Json = _option(bool, "--json", text="Print JSON.")
Recipes = _option(str, "--recipes", metavar="A,B,...", text="Recipes to compare: names or YAML files.")
Sizes = _option(str, "--sizes", metavar="N,...,all", text="Numbers of training rows.")
Seeds = _option(int, "--seeds", metavar="N", text="Runs of each recipe and size, paired across recipes.", least=1)
Budget = _option(int, "--budget", metavar="N", text="Settings tried for each recipe, the same number for all.", least=1)
SearchSeeds = _option(int | None, "--search-seeds", metavar="N", text="Seeds that each setting is tried with; else all.", least=1)
Decompose = _option(bool, "--decompose", text="Cross sampling, initialization and order, N seeds of each, and split the variance.")
Workers = _option(int, "--workers", metavar="N", text="1: every run in a child process, so that one out of memory ends alone.", least=0)
Form = _option(str, "--format", metavar="FORM", text="html, table, json or md.")
Models = _option(str, "--models", metavar="A,B,...", text="Models to rank: folders, hub ids or minilm.")
Candidates = _argument(list[str], "CANDIDATE...", "Labelled data sets to rank: files, folders or hub data sets.")
Rows = _option(int, "--rows", metavar="N", text="Training rows that are read at most.", least=10)
By = _option(str, "--by", metavar="MEASURE", text="Measure to rank by: logme, h_score, leep or probe.")
Templates = _option(list[str] | None, "--template", metavar="TEXT", text="Cloze template such as '{text} It was {mask}.'; repeatable.")
LabelWords = _option(list[str] | None, "--words", metavar="W,W|LABEL=W,...", text="Label words, W|W for several; repeatable.")
On = _option(str, "--on", metavar="SPLIT", text="dev or train: the rows that prompts are scored on.")
Show = _option(int, "--show", metavar="N", text="Prompts shown of each candidate.", least=0)
Search = _option(bool, "--search", text="Search templates and write a recipe.")
SearchMethod = _option(str, "--method", metavar="HOW", text="With --search: fill (a model writes templates) or autoprompt.")
Iterations = _option(int | None, "--iterations", metavar="N", text="With autoprompt: swaps that are tried; else 50.", least=1)
SwapBy = _option(str | None, "--by", metavar="WHAT", text="With autoprompt: a swap raises accuracy, or lowers loss; else accuracy.")
FillerModel = _option(str | None, "--filler", metavar="NAME", text="With --search: T5 kind of model that writes templates.")
AutoLabelWords = _option(bool, "--auto-words", text="With --search: choose the label words as well.")
CandidateCount = _option(int, "--candidates", metavar="N", text="With --search: templates, or words tried in a swap.", least=1)
Beam = _option(int | None, "--beam", metavar="N", text="With --search: width of the beam; else 100, without --filler 10.", least=1)
Finalists = _option(
    int | None, "--finalists", metavar="N", text="With --search: templates (and sets of label words) that are fine-tuned; else 10.", least=1
)
Keep = _option(int | None, "--keep", metavar="N", text="With --search: templates in the recipe, as an ensemble; else 1.", least=1)
RecipeFor = _option(str | None, "--recipe", metavar="NAME|FILE", text="With --search: recipe that takes the prompt; else cloze.")
PromptFolder = _argument(str, "DIR", "Folder of a short run of prompt tuning on your task.")
PromptFolders = _argument(list[str], "SOURCE...", "Folders of prompt tuning on other tasks, with the same model.")
Facts = _argument(str, "FACTS", "CSV, TSV, JSONL, JSON or Parquet file: a subject and an object a row, perhaps relation and template.")
FactTemplates = _option(list[str] | None, "--template", metavar="TEXT", text="Such as '[X] was born in [Y].', for all facts; repeatable.")
RelationFile = _option(str | None, "--relations", metavar="FILE", text="File with columns relation and template, as LAMA has it.")
Subject = _option(str | None, "--subject", metavar="COLUMN", text="Column of the subject; else found by its usual names.")
Object = _option(str | None, "--object", metavar="COLUMN", text="Column of the object; else found by its usual names.")
Relation = _option(str | None, "--relation", metavar="COLUMN", text="Column of the relation; else found by its usual names.")
Among = _option(Path | None, "--among", metavar="FILE", text="Words that answers are ranked among, one a line; else all tokens.")
ShowFacts = _option(int, "--show", metavar="N", text="Facts of each relation shown with what the model says.", least=0)
RecipeFile = _option(Path | None, "--output", metavar="FILE", text="With --search: file for the recipe; else recipe.yaml.")
Version = _option(bool, "--version", text="Print the version.")
