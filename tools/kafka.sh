#!/bin/sh
# Kafka's own command-line tools where there is no Docker: tools/kafka.sh topics|consumer-groups|console-consumer ARGUMENTS
# (--help lists a tool's). The broker is KAFKA_BOOTSTRAP_SERVERS, else the local stack's.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
case ${1:-} in
    topics) class=TopicCommand ;;
    consumer-groups) class=consumer.group.ConsumerGroupCommand ;;
    console-consumer) class=consumer.ConsoleConsumer ;;
    *) sed -n '2,3s/^# //p' "$0" >&2; exit 2 ;;
esac
shift
jars=$root/.local/jars/$({ sha256sum "$root/tools/stack/kafka/pom.xml" 2>/dev/null || shasum -a 256 "$root/tools/stack/kafka/pom.xml"; } | cut -c1-12)
[ -d "$jars" ] || { echo "Kafka's jars are not there: run tools/setup.sh system kafka" >&2; exit 1; }
exec "${JAVA_HOME:+$JAVA_HOME/bin/}java" -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$jars/*" \
    -Dlog4j2.configurationFile="$root/tools/stack/kafka/log4j2-tools.properties" "org.apache.kafka.tools.$class" \
    --bootstrap-server "${KAFKA_BOOTSTRAP_SERVERS:-localhost:${KAFKA_PORT:-9092}}" "$@"
