"""One cluster with two replicas of chat and one of reasoning, for all tests here."""
