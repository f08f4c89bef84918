"""The codecs `none` and `zstd`: what a storage does with bytes before they go to disk.

A chain such as `zstd+aesgcm` is spelled with the names of its codecs. Storages call them. They know bytes, and not what
the bytes mean. Start reading at `hooks`, then `zstd`.
"""
