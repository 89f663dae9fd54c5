#!/bin/sh
# Makes this clone ready to work in; quiet and quick when it is. Usage: tools/setup.sh [PART ...]
#
#   venv      .venv with the locked Python packages        (PYTHON=... chooses the interpreter)
#   system    Java, Maven and PostgreSQL, and strace for the tests, through apt when root on Debian or Ubuntu
#   kafka     Kafka's jars, through Maven
#   mongo     the jars of a server that speaks MongoDB's protocol, through Maven, and our own classes for it, compiled
#   superset  .local/superset/venv with Superset's locked packages (650 MB); only when asked for, as its tests do
#
# Without arguments: all others, or with STACK=compose (in the environment or in .env) only the venv, as Docker brings
# the rest.
set -eu
cd "$(dirname "$0")/.."
root=$PWD

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
checksum() { if have sha256sum; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1; }

# --- system programs ---------------------------------------------------------------------------------------------

as_root_on_debian() { [ "$(id -u)" = 0 ] && have apt-get; }

# Installs packages, or says in one line what to type. $1: what is missing; the rest: Debian's packages.
install_packages() {
    missing=$1; shift
    if ! as_root_on_debian; then
        have apt-get && die "missing: $missing. Install it with: sudo apt-get install -y $*"
        have brew && die "missing: $missing. Install it with: brew install openjdk maven postgresql@17 python@3.13"
        die "missing: $missing. Install it with your system's package manager, then run this again."
    fi
    say "installing $* (missing: $missing)"
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -qq install -y --no-install-recommends "$@" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt-get could not install $*; its last lines are above."
    fi
    rm -f "$log"
}

refresh_package_lists() {
    as_root_on_debian || return 0
    apt-cache show "$1" >/dev/null 2>&1 || apt-get -o DPkg::Lock::Timeout=120 -qq update >/dev/null 2>&1 || true
}

java_major() {
    # "17.0.15", "21", "1.8.0_402"
    "$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1
}

find_java() {
    for java in "${JAVA_HOME:-/nonexistent}/bin/java" "$(command -v java || echo /nonexistent)" /usr/lib/jvm/*/bin/java; do
        if [ -x "$java" ] && [ "$(java_major "$java" || echo 0)" -ge 17 ] 2>/dev/null; then echo "$java"; return 0; fi
    done
    return 1
}

java_package() {
    refresh_package_lists maven
    for version in 21 17 25; do
        package=openjdk-$version-jre-headless
        if ! have apt-cache || apt-cache show "$package" >/dev/null 2>&1; then echo "$package"; return; fi
    done
    echo default-jre-headless
}

find_postgres() {
    for bindir in "$( (pg_config --bindir) 2>/dev/null || echo /nonexistent)" /usr/lib/postgresql/*/bin \
        "$(dirname "$(command -v postgres || echo /nonexistent/x)")"; do
        [ -x "$bindir/postgres" ] && [ -x "$bindir/initdb" ] || continue
        major=$("$bindir/postgres" --version | sed -n 's/^[^0-9]*\([0-9]*\).*/\1/p')
        [ "$major" -ge 15 ] && return 0
    done
    return 1
}

# Debian's package starts a cluster of its own on port 5432 unless told not to.
install_postgres() {
    if as_root_on_debian; then
        refresh_package_lists postgresql
        install_packages "PostgreSQL 15 or later" postgresql-common
        conf=/etc/postgresql-common/createcluster.conf
        kept=$(mktemp)
        cp -p "$conf" "$kept"
        trap 'cp -p "$kept" "$conf"; rm -f "$kept"' EXIT
        trap 'exit 130' INT TERM
        printf 'create_main_cluster = false\n' >>"$conf"
        install_packages "PostgreSQL 15 or later" postgresql
        cp -p "$kept" "$conf"; rm -f "$kept"
        trap - EXIT INT TERM
        find_postgres || die "this system's PostgreSQL is older than 15; install a newer one, e.g. from its makers' packages."
    else
        install_packages "PostgreSQL 15 or later" postgresql
    fi
}

# Only tests need it, those that kill a service at each of its writes: without it everything runs. Said once.
setup_strace() {
    said=.local/strace-is-missing
    if have strace || [ -e "$said" ]; then return; fi
    if as_root_on_debian; then
        refresh_package_lists strace
        (install_packages "strace, for tests" strace) && return
    fi
    hint="your system's package manager"
    ! have apt-get || hint="sudo apt-get install -y strace"
    say "strace is missing: the tests that kill a service at each of its writes need it, nothing else does ($hint)."
    mkdir -p .local
    : >"$said"
}

setup_system() {
    [ "$(uname)" != Linux ] || setup_strace
    if as_root_on_debian; then
        find_java >/dev/null || install_packages "Java 17 or later" "$(java_package)"
        have mvn || { refresh_package_lists maven; install_packages "Maven" maven; }
        find_postgres || install_postgres
        return
    fi
    # Without root: all that is missing in one line.
    missing='' packages=''
    find_java >/dev/null || { missing="$missing, Java 17 or later"; packages="$packages $(java_package)"; }
    have mvn || { missing="$missing, Maven"; packages="$packages maven"; }
    find_postgres || { missing="$missing, PostgreSQL 15 or later"; packages="$packages postgresql"; }
    # shellcheck disable=SC2086 # the packages are words
    [ -z "$missing" ] || install_packages "${missing#, }" $packages
}

# --- jars --------------------------------------------------------------------------------------------------------

# Fetches the jars of a pom ($2) into a new folder, whose path is then in $new. $1: whose they are.
fetch_jars() {
    have mvn || die "missing: Maven, which fetches $1 jars. Run: tools/setup.sh system"
    say "fetching $1 jars"
    mkdir -p .local/jars
    new=$(mktemp -d .local/jars/new.XXXXXX)
    log=$(mktemp)
    JAVA_HOME=${JAVA_HOME:-$(dirname "$(dirname "$(readlink -f "$(find_java)")")")} \
        mvn -B -q -ntp -f "$2" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$root/$new" >"$log" 2>&1 ||
        { rm -rf "$new"; tail -n 20 "$log" >&2; die "Maven could not fetch $1 jars; its last lines are above."; }
    rm -f "$log"
    chmod 755 "$new"
}

# Gives the new folder its name: only a finished one has it.
keep_jars() { mv "$new" "$1" 2>/dev/null || rm -rf "$new"; }    # another run may have been quicker

setup_kafka() {
    pom=tools/stack/kafka/pom.xml
    jars=.local/jars/$(checksum "$pom" | cut -c1-12)
    [ -d "$jars" ] && return
    fetch_jars "Kafka's" "$pom"
    keep_jars "$jars"
}

setup_mongo() {
    # tools/stack/config.py finds the folder in the same way.
    jars=.local/jars/$(export LC_ALL=C; cat tools/stack/mongo/*.java tools/stack/mongo/pom.xml | checksum - | cut -c1-12)
    [ -d "$jars" ] && return
    fetch_jars "the MongoDB server's" tools/stack/mongo/pom.xml
    # The Java that runs it may be without a compiler; ECJ is one, and among the jars.
    "$(find_java)" -cp "$new/*" org.eclipse.jdt.internal.compiler.batch.Main -17 -proc:none \
        -cp "$(printf '%s:' "$new"/*.jar)" -d "$new" tools/stack/mongo/*.java ||
        { rm -rf "$new"; die "the MongoDB server's classes could not be compiled; the compiler's lines are above."; }
    keep_jars "$jars"
}

# --- Python ------------------------------------------------------------------------------------------------------

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python of version 3.11 or later."
        echo "$PYTHON"; return
    fi
    for python in python3.13 python3.12 python3.11 python3 python3.14; do
        if have "$python" && new_enough "$python" && can_make_venv "$python"; then echo "$python"; return; fi
    done
    return 1
}

install_python() {
    refresh_package_lists python3-venv
    install_packages "Python 3.11 or later with its venv module" python3 python3-venv
}

# pip's index, where a person configured one, is uv's too.
uv_index() {
    [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ] || return 0
    index=$(.venv/bin/python -m pip config get global.index-url 2>/dev/null) || index=${PIP_INDEX_URL:-}
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
}

# pip trusts what the system trusts; uv does so only when told.
uv_certificates() {
    [ -z "${UV_SYSTEM_CERTS:-}" ] || return 0
    [ ! -e /etc/ssl/certs/ca-certificates.crt ] || export UV_SYSTEM_CERTS=true
}

install_locked() {
    lock=requirements/dev.lock
    pip='.venv/bin/python -m pip --disable-pip-version-check'
    only_uv=$(mktemp)
    # The lock's entry for uv: its line, and the indented lines of hashes below it.
    awk '/^[^ ]/ { wanted = /^uv==/ } wanted' "$lock" >"$only_uv"
    if [ -s "$only_uv" ] && $pip install -q --require-hashes -r "$only_uv" && uv_index && uv_certificates &&
        .venv/bin/python -m uv pip sync -q --require-hashes --python .venv/bin/python "$lock"; then
        rm -f "$only_uv"; return
    fi
    rm -f "$only_uv"
    say "uv could not install the packages; trying pip"
    $pip install -q --require-hashes -r "$lock" || die "the locked Python packages could not be installed; pip's lines are above."
}

setup_venv() {
    version_of='import sys; print("%d.%d" % sys.version_info[:2])'
    if [ -d .venv ] && ! new_enough .venv/bin/python; then
        say "the Python behind .venv is gone or too old: making it anew"; rm -rf .venv
    elif [ -d .venv ] && [ -n "${PYTHON:-}" ] && [ "$("$PYTHON" -c "$version_of")" != "$(.venv/bin/python -c "$version_of")" ]; then
        say "making .venv anew with $PYTHON"; rm -rf .venv
    fi
    # The folder is part of the stamp: the scripts in .venv/bin name it.
    stamp="$(checksum requirements/dev.lock) $root"
    [ -f .venv/.stamp ] && [ "$(cat .venv/.stamp)" = "$stamp" ] && return
    if [ -f .venv/.stamp ] && ! grep -qF " $root" .venv/.stamp; then
        say "this folder was moved: making .venv anew"; rm -rf .venv
    fi
    if [ ! -d .venv ]; then
        python=$(find_python) || { [ -z "${PYTHON:-}" ] || exit 1; install_python; python=$(find_python) || die "no usable Python was found."; }
        say "making .venv with $("$python" --version)"
        "$python" -m venv .venv || { rm -rf .venv; die "$python could not make .venv."; }
    fi
    say "installing the locked Python packages"
    install_locked
    printf '%s\n' "$stamp" >.venv/.stamp
}

# Superset's packages have no wheels for newer Pythons; where the system has none of these, uv fetches one.
setup_superset() {
    venv=.local/superset/venv
    superset_lock=requirements/superset.lock
    superset_stamp="$(checksum "$superset_lock") $root"
    [ -f "$venv/.stamp" ] && [ "$(cat "$venv/.stamp")" = "$superset_stamp" ] && "$venv/bin/python" -c '' && return
    [ -x .venv/bin/uv ] || setup_venv
    say "installing Superset into $venv"
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    uv_index
    uv_certificates
    { .venv/bin/python -m uv venv -q --python '>=3.11,<3.13' "$venv" &&
        .venv/bin/python -m uv pip sync -q --require-hashes --python "$venv/bin/python" "$superset_lock"; } ||
        die "Superset's locked packages could not be installed; uv's lines are above."
    printf '%s\n' "$superset_stamp" >"$venv/.stamp"
}

# --- what was asked for ------------------------------------------------------------------------------------------

if [ $# -eq 0 ]; then
    set -- venv
    [ -n "${STACK:-}" ] || STACK=$(sed -n 's/^STACK=//p' .env 2>/dev/null | tail -n 1)
    [ "$STACK" = compose ] || set -- venv system kafka mongo
fi
for part in "$@"; do
    case $part in
        venv | system | kafka | mongo | superset) "setup_$part" ;;
        *) die "no part is called '$part'; there are: venv system kafka mongo superset" ;;
    esac
done
