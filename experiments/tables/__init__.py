"""The paper's Tables 2 to 7 over one small model, on storyworld: `python -m experiments.tables`.

`rows.py` says what the rows are and `published.py` what the paper has for them; `settings.py` turns a row into cells
(row, training, story, seed), `training.py` fine-tunes what has to be trained, `run.py` makes the cells that are
missing, by `generating.py` and `measures.py`; `statistics.py` and `orderings.py` compare rows, and `report.py` with
`markdown.py` and `page.py` write down what comes of it.
"""
