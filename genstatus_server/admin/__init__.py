"""The commands for operators: users, login sessions, submissions, jobs, `check`, `init-db` and `init-roles`."""
