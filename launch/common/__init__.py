"""What commands share: flags and mistakes, clusters of processes, pools of runs, results."""
