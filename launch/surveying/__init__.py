"""What `launch.survey` is made of: what it measures, what it recommends, and how it shows that."""
