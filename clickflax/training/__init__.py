"""`clickflax train`: objectives, the step, the input pipeline and the loop."""
