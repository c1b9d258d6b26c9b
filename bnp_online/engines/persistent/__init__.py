"""Engine that learns a block of rows in one launch of one kernel; see ``DESIGN.md`` in this folder."""
