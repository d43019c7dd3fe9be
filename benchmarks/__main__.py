"""`python -m benchmarks [NAME …] [--size small|full] [--output PATH]`."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.results import Answer, document, machine, write_document
from benchmarks.volumes import SIZES

QUESTIONS = (
    "kernels",
    "peers",
    "whole_run",
    "blocks",
    "memory",
    "comparison",
    "scale",
    "large_run",
    "projection",
    "inventory",
    "starting",
)
GPU_QUESTIONS = ("gpu",)
"""Asked only by name, because they need a GPU."""
RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> None:
    """Answer the questions, print the answers, and write them where all questions are answered at full size."""
    known = (*QUESTIONS, *GPU_QUESTIONS)
    listed = ", ".join(known)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {listed}; default: all but gpu")
    parser.add_argument("--size", choices=[name for name in SIZES if name != "tiny"], default="full")
    parser.add_argument(
        "--output", type=Path, help=f"default: {RESULTS.name} beside the benchmarks, for all questions at size full"
    )
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; choose from {listed}")
    complete = not options.names and options.size == "full"
    where = machine()
    answers = [_answer(name, options.size) for name in known if name in (options.names or QUESTIONS)]
    text = document(where, options.size, answers)
    print(text)
    output = options.output or (RESULTS if complete else None)
    if output:
        write_document(output, text)
        print(f"written to {output}")


def _answer(name: str, size: str) -> Answer:
    print(f"measuring {name} ...", flush=True)
    answer: Answer = importlib.import_module(f"benchmarks.{name}").answer(SIZES[size])
    return answer


if __name__ == "__main__":
    main()
