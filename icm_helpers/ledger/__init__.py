"""What was asked for and what was measured: recipes, records, verdicts, the grid that measures, reports for chapters."""
