"""Named studies: many trainings of this commit as DVC experiments, and what they measured."""
