"""What `trl_oracle.py` compares with TRL, in an environment that has it: losses, log, token ids."""
