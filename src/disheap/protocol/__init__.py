"""The bytes on the wire: frames around opaque bodies, messages between nodes, and the broker's vocabulary."""
