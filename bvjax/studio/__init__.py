"""The studio: a page that makes videos while people watch, above `bvjax.runs`.

security.py      who is let in: token, names of the host, other sites, sizes, what pages may load
protocol.py      what clients say, read as a stranger's; what events are
choices.py       presets and switches, with plain explanations
uploads.py       first images and videos to go on from: how large, of which kinds
fragments.py     frames as pieces of fragmented mp4, and as JPEG
chunk_store.py   these pieces by the content of their chunks: a cache, which may be deleted
versions.py      the run folders, and the tree that branches make of them
deletion.py      a run gone for good, its branches whole
fair_queue.py    whose turn it is
previews.py      the chunk at work, step by step
jobs.py          one thread for the accelerator: chunks, and what is asked for between them
lora_library.py  the LoRAs of a folder, and models with those of a run
making.py        a run followed chunk by chunk: what is told of each
hub.py           from that thread to the sockets of all pages
server.py        routes
serve.py         the command

Every version is an ordinary run folder.  What the studio keeps beside them lies in `.studio/`.
"""
