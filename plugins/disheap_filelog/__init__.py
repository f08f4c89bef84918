"""The storage `file`: a log in segments, snapshots, and small files in two copies.

`storage` is the plugin. `segments` has the log, `snapshots` the snapshots' files, `small_files` what else is in the
directory. All of it passes through `filesystem`, so that tests can fail any operation. A node calls it on its disk
thread. It does not know what an entry or a snapshot says. Start reading at `storage`.
"""
