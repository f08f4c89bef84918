"""The applications of `contrib/examples`, each started by its one command. Start reading at `test_examples`."""
