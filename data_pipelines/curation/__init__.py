"""From a folder of films to a training set, in stages that can be stopped, resumed and done again one by one.

A stage is a pure function of the rows of one film (`rows.Row`, JSON values alone) and the settings; `stages.STAGES` has
them in order. `journal` keeps what they gave, `run` runs them, `report` counts. The command is `data_pipelines.curate`.
"""
