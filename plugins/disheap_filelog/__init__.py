"""The storage `file`: a log in segments, snapshots, and small files in two copies.

`storage` is the plugin. `segment` and `blocks` have the log's format, `snapshot` that of snapshots, `recovery` what a
crash leaves. All of it passes through `filesystem`, so that tests can fail any operation. A node calls it on its disk
thread. It does not know what an entry or a snapshot says. Start reading at `storage`.
"""
