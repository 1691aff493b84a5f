#!/bin/bash
exec kafka-run kafka.admin.ConfigCommand "$@"
