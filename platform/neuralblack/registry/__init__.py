"""Models on files: whole folders checked by hash, aliases switched in one step, runs that say what they were."""
