"""Search of the samplers: keys, schedules and one file a backend."""
