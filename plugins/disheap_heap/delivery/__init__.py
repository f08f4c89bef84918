"""How messages move: into a topic, to a consumer under a lease, back into their topic, and out.

Owns who gets which message, how much credit that takes, and how a lease ends. `commands`, `transactions` and `work`
call it. It changes the records of `state`. It does not check who may do something, and creates neither topics nor
sessions. Start reading at `delivery`.
"""
