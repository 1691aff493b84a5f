#!/bin/bash
exec kafka-run kafka.tools.DumpLogSegments "$@"
