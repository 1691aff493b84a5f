#!/bin/bash
exec kafka-run org.apache.kafka.tools.GetOffsetShell "$@"
