"""The run page: `mrg-grpo view RUN_DIR` writes one HTML file that shows a run to its reader.

records.py   the files of a run -> checked records
lesson.py    what a group of samples taught and how far its reports disagree: labels and advantages in, words out
cases.py     records -> typed cases: pictures, reports in pieces, each piece with the findings it carries
page.py      everything on the page as one typed tree, within the page's size
render.py    tree -> JSON -> page.html with page.css and the scripts inlined
watch.py     write the page once, or again whenever the run has moved on
assets/      page.html, page.css and the scripts, readable as they are

Not here: anything that writes a run. May import: data, labelers, config, prompt, labels, step_metrics, files; it reads
what a run left and needs no engine.
"""

from mrg_grpo.view.watch import view

__all__ = ["view"]
