"""Files that start a run on a cluster: `job` (what is started), a module for each launcher, `flags` (XLA's), `checks`."""
