"""Something that is started again and again: when, by whom (scrontab, a chain of jobs, cron, systemd), and its text."""
