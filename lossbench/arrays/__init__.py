"""What is measured of arrays that anybody wrote, without a run."""
