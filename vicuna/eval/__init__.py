"""Evaluation: ask chatbots the same questions, judge the answers in pairs, and say how sure the numbers are."""
