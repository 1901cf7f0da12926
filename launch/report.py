"""Makes a page about a run: RUN/report.html, one file that needs no other.

    python -m launch.report --run=RUN
    python -m launch.report --run=RUN --split=validation --checkpoint=last

It evaluates a split as launch.evaluate does (and writes RUN/evaluation-SPLIT.json too), and shows
what became of the training: curves, metrics by user activity and item popularity, reliability,
traffic and time of each server, configuration and versions. The run need not be done.
"""

from launch import evaluate, program


def main(arguments: list[str]) -> None:
    """Writes the page of each run."""
    del arguments
    runs = evaluate.runs_of_flags()
    from launch import report_page

    for run in runs:
        report_page.write(run, evaluate.evaluate(run))
        print(f"report: {run.page}", flush=True)


if __name__ == "__main__":
    program.run(main)
