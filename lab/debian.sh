# shellcheck shell=sh
# For scripts that fetch packages of another Debian suite than the machine's own; to be sourced.

# debian_sources WORK SUITE: writes WORK/sources from the machine's own mirror; fails if it has none.
debian_sources() {
  mkdir -p "$1/sources" "$1/lists/partial" "$1/cache/archives/partial"
  rm -f "$1"/sources/*
  if [ -r /etc/apt/sources.list.d/debian.sources ]; then
    awk '/^#/ {next} /^$/ {if (seen) exit; next} {seen = 1; print}' /etc/apt/sources.list.d/debian.sources |
      sed -e "s/^Suites:.*/Suites: $2/" -e 's/^Components:.*/Components: main/' >"$1/sources/lab.sources"
  elif grep -qs '^deb .*debian' /etc/apt/sources.list; then
    grep '^deb .*debian' /etc/apt/sources.list | head -n 1 |
      sed -E "s/^(deb( \[[^]]*\])? +[^ ]+) .*/\1 $2 main/" >"$1/sources/lab.list"
  else
    return 1
  fi
}

# debian_apt WORK PROGRAM [ARG…]: an apt program with those sources only.
debian_apt() {
  debian_work=$1 debian_program=$2
  shift 2
  "$debian_program" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$debian_work/sources" \
    -o Dir::State::Lists="$debian_work/lists" -o Dir::Cache="$debian_work/cache" -o APT::Sandbox::User= "$@"
}
