#!/usr/bin/env bash
# Installs the real clients and peers that `npm run test:clients` and the benches run against.
#
#   install.sh              everything
#   install.sh NAME…        only these: a tool, or a program that a tool brings (`dockerd`, `ctr-2.4`)
#   install.sh --list       each tool, its version, and its path or how to get it
#   install.sh --path       the folder to put on PATH
#
# All of it goes into ${OUTPORT_TOOLS:-~/.cache/outport-tools}; nothing else on the machine changes,
# no service is installed or started, and root is not needed. What is there already is skipped, so
# a second run needs no network. Go modules and Debian packages come from wherever this machine's
# `go` and `apt-get` are set up to get them.
set -euo pipefail

tools=${OUTPORT_TOOLS:-${HOME:?set HOME or OUTPORT_TOOLS}/.cache/outport-tools}
bin=$tools/bin       # what tests run
root=$tools/root     # Debian packages, unpacked
stamps=$tools/stamps # one file a tool: the version that is installed

# Go programs: tool, version, then program=package for each program.
go_tools=(
  'conformance v0.0.0-20260831232431-97274622c111 conformance=github.com/opencontainers/distribution-spec/conformance'
  'crane v0.22.1 crane=github.com/google/go-containerregistry/cmd/crane'
  'oras v1.3.6 oras=oras.land/oras/cmd/oras'
  'helm v3.22.0 helm=helm.sh/helm/v3/cmd/helm'
  'crictl v1.37.0 crictl=sigs.k8s.io/cri-tools/cmd/crictl'
  'distribution v3.0.0 distribution=github.com/distribution/distribution/v3/cmd/registry'
  'containerd-2.4 v2.4.2 containerd-2.4=github.com/containerd/containerd/v2/cmd/containerd ctr-2.4=github.com/containerd/containerd/v2/cmd/ctr'
)

# Debian packages: tool | version (what it starts with) | packages, the tool's own first | programs.
# The libraries are those that a Debian with apt need not have.
debian_tools=(
  'containerd|1.6.|containerd runc libseccomp2|containerd ctr containerd-shim-runc-v2 runc'
  'docker|20.10.|docker.io libdevmapper1.02.1|dockerd docker docker-proxy'
  'skopeo|1.|skopeo libgpgme11 libassuan0 libdevmapper1.02.1|skopeo'
  'podman|4.3.|podman conmon libgpgme11 libassuan0 libdevmapper1.02.1 libsubid4 libseccomp2 libglib2.0-0|podman conmon'
  'buildah|1.28.|buildah libgpgme11 libassuan0 libdevmapper1.02.1 libseccomp2|buildah'
  'nginx|1.|nginx libssl3|nginx'
)

# A package of another Debian suite, which runs here too: tool | version (what it starts with) | suite, package, and its
# SHA-256 for amd64 and arm64 | programs.
suite_tools=(
  'consul|1.8.7|bullseye consul e4e888bba104daba1d9161f49bfc52649a7e4efd45b1a7ead5bc54f2cb9c89d9 7318cfa77a7ba6f71dd096e44353279de246ffc6561216ace42353685dcf8255|consul'
)

# Tools that run another one.
needed_by() {
  case $1 in
    docker | podman | buildah) echo containerd ;;
  esac
}

# Programs that tests use in any version, from PATH; they are not installed here.
from_path=(openssl curl unshare nsenter setpriv mount)

main() {
  case ${1:-} in
    --path) echo "$bin" && return ;;
    --list) list && return ;;
    --help | -h) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && return ;;
    -*) die "unknown option $1; see install.sh --help" ;;
  esac
  local wanted=() name tool
  (($# > 0)) || set -- $(all_tools)
  for name in "$@"; do
    tool=$(tool_of "$name") || die "$name is not installed by this script; $(how_else "$name")"
    for tool in $(needed_by "$tool") "$tool"; do
      [[ " ${wanted[*]-} " == *" $tool "* ]] || wanted+=("$tool")
    done
  done
  mkdir -p "$bin" "$root" "$stamps"
  exec 9>"$tools/lock"
  flock 9 # two runs at once take turns
  for tool in "${wanted[@]}"; do install_tool "$tool"; done
}

install_tool() {
  local tool=$1 kind version what programs started=$SECONDS
  IFS='|' read -r kind version what programs < <(describe "$tool")
  if is_installed "$tool"; then
    echo "$tool $(<"$stamps/$tool") is there"
    return
  fi
  rm -f "$stamps/$tool"
  work=$(mktemp -d "$tools/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  "install_$kind" "$tool" "$version" "$what" "$programs"
  rm -rf "$work"
  echo "$tool $(<"$stamps/$tool") installed in $((SECONDS - started)) s"
}

install_go() {
  local tool=$1 version=$2 what=$3 pair program package
  command -v go >"$work/go" || die "$tool is built with Go: install Go 1.25 or newer, then run this again"
  for pair in $what; do
    program=${pair%%=*} package=${pair#*=}
    go_install "$package" "$version"
    mv -f "$work/bin/${package##*/}" "$bin/$program"
  done
  echo "$version" >"$stamps/$tool"
}

# In a module of its own, because `go install PACKAGE@VERSION` refuses modules with a replace line.
# Without cgo: no C compiler or library headers are needed.
go_install() {
  local package=$1 version=$2
  mkdir -p "$work/module"
  (
    cd "$work/module"
    rm -f go.mod go.sum
    export CGO_ENABLED=0 GOBIN=$work/bin GOWORK=off
    quietly go mod init outport.test/tools
    quietly go get -tool "$package@$version"
    quietly go install -trimpath "$package"
  )
}

install_debian() {
  local tool=$1 version=$2 packages=$3 programs=$4 program path got
  command -v apt-get >"$work/apt" || die "$tool comes as a Debian package: this machine has no apt-get"
  download $packages
  got=$(dpkg-deb --field "$work/deb/${packages%% *}"_*.deb Version)
  [[ $got == "$version"* ]] ||
    die "$tool here is $got; the tests are written for ${version}x of Debian 12"
  for path in "$work"/deb/*.deb; do dpkg --extract "$path" "$root"; done
  for program in $programs; do
    path=$(program_in_root "$program")
    if LD_LIBRARY_PATH=$(libraries) ldd "$path" 2>&1 | grep 'not found' >&2; then
      die "$program lacks the libraries above"
    fi
    write_wrapper "$program" "$path"
  done
  echo "$got" >"$stamps/$tool"
}

# The machine's package lists may be missing or too old; then fresh ones are fetched into the cache.
download() {
  local options=(-o APT::Sandbox::User=root -o Dir::Cache="$tools/apt/cache")
  mkdir -p "$work/deb" "$tools/apt/cache/archives/partial" "$tools/apt/lists/partial"
  cd "$work/deb"
  if ! apt-get "${options[@]}" download "$@" >"$work/log" 2>&1; then
    options+=(-o Dir::State::Lists="$tools/apt/lists")
    quietly apt-get "${options[@]}" update
    quietly apt-get "${options[@]}" download "$@"
  fi
  cd "$tools"
}

# Its lists and settings are apart from the machine's; only the mirror is the machine's.
install_suite() {
  local tool=$1 what=$3 programs=$4 suite package amd64 arm64 architecture wanted source program apt=$tools/apt/$1
  read -r suite package amd64 arm64 <<<"$what"
  command -v apt-get >"$work/apt" || die "$tool comes as a Debian package: this machine has no apt-get"
  architecture=$(dpkg --print-architecture)
  case $architecture in
    amd64) wanted=$amd64 ;;
    arm64) wanted=$arm64 ;;
    *) die "no $architecture machine was tried: add the package's SHA-256 here" ;;
  esac
  local options=(
    -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::SourceList="$work/sources.list" -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache"
  )
  mkdir -p "$work/deb" "$apt/lists/partial" "$apt/cache/archives/partial"
  source=$(mirror)
  echo "deb [$(suite_trust)] $source $suite main" >"$work/sources.list"
  cd "$work/deb"
  quietly apt-get "${options[@]}" update
  quietly apt-get "${options[@]}" download "$package"
  cd "$tools"
  sha256sum --status --check <<<"$wanted  $(echo "$work"/deb/"$package"_*.deb)" ||
    die "the package $package of $suite is not the one that this script knows"
  dpkg --extract "$work"/deb/"$package"_*.deb "$root"
  for program in $programs; do write_wrapper "$program" "$(program_in_root "$program")"; done
  dpkg-deb --field "$work"/deb/"$package"_*.deb Version >"$stamps/$tool"
}

# Where this machine gets its Debian packages from.
mirror() {
  local file
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    [[ ! -f $file ]] || sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb (\[[^]]*\] )?([^ ]+) .*/\2/p' "$file"
  done | grep -E '/debian/?$' | sed -n 1p | grep . || die 'this machine has no source of Debian packages'
}

# Without the keys of other suites, the SHA-256 alone says whether it is the right package.
suite_trust() {
  local keys=/usr/share/keyrings/debian-archive-keyring.gpg
  if [[ -f $keys ]]; then echo "signed-by=$keys"; else echo trusted=yes; fi
}

# The programs find their libraries, and each other, in the unpacked packages. `exec` keeps the pid.
write_wrapper() {
  local program=$1 path=$2 arguments=
  # Compiled in is a log under /var/log, opened before any configuration is read.
  [[ $program != nginx ]] || arguments='-e stderr '
  cat >"$work/wrapper" <<END
#!/bin/sh
export LD_LIBRARY_PATH='$(libraries)'"\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
export PATH='$bin'":\$PATH"
exec '$path' $arguments"\$@"
END
  chmod 755 "$work/wrapper"
  mv -f "$work/wrapper" "$bin/$program"
  case $program in
    containerd | ctr) ln -sf "$program" "$bin/$program-1.6" ;;
  esac
}

program_in_root() {
  local folder
  for folder in usr/sbin usr/bin sbin bin; do
    [[ ! -x $root/$folder/$1 ]] || { echo "$root/$folder/$1" && return; }
  done
  die "the Debian package has no program $1"
}

libraries() {
  local multiarch
  multiarch=$(dpkg --print-architecture)
  case $multiarch in
    amd64) multiarch=x86_64-linux-gnu ;;
    arm64) multiarch=aarch64-linux-gnu ;;
    *) die "no $multiarch machine was tried: add its library folder here" ;;
  esac
  echo "$root/usr/lib/$multiarch:$root/lib/$multiarch"
}

# What the tables say of a tool: kind|version|packages|programs
describe() {
  local line name version what pair programs
  for line in "${go_tools[@]}"; do
    read -r name version what <<<"$line"
    [[ $name == "$1" ]] || continue
    programs=
    for pair in $what; do programs+="${pair%%=*} "; done
    echo "go|$version|$what|$programs" && return
  done
  for line in "${debian_tools[@]}"; do
    [[ ${line%%|*} != "$1" ]] || { echo "debian|${line#*|}" && return; }
  done
  for line in "${suite_tools[@]}"; do
    [[ ${line%%|*} != "$1" ]] || { echo "suite|${line#*|}" && return; }
  done
  return 1
}

all_tools() {
  local line
  for line in "${go_tools[@]}"; do echo "${line%% *}"; done
  for line in "${debian_tools[@]}" "${suite_tools[@]}"; do echo "${line%%|*}"; done
}

# The tool that brings a program: containerd-2.4 for ctr-2.4.
tool_of() {
  local tool programs
  while read -r tool; do
    programs=$(describe "$tool")
    [[ " $tool ${programs##*|} " != *" ${1%-1.6} "* ]] || { echo "$tool" && return; }
  done < <(all_tools)
  return 1
}

is_installed() {
  local kind version what programs program
  IFS='|' read -r kind version what programs < <(describe "$1")
  [[ -f $stamps/$1 ]] || return 1
  case $kind in
    go) [[ $(<"$stamps/$1") == "$version" ]] || return 1 ;;
    debian | suite) [[ $(<"$stamps/$1") == "$version"* ]] || return 1 ;;
  esac
  for program in $programs; do [[ -x $bin/$program ]] || return 1; done
}

list() {
  local tool kind version what programs program
  while read -r tool; do
    IFS='|' read -r kind version what programs < <(describe "$tool")
    if is_installed "$tool"; then
      for program in $programs; do
        printf '%-24s %-24s %s\n' "$program" "$(<"$stamps/$tool")" "$bin/$program"
      done
    else
      [[ $kind == go ]] || version+=x
      printf '%-24s %-24s missing: run deploy/tools/install.sh %s\n' "$tool" "$version" "$tool"
    fi
  done < <(all_tools)
  for program in "${from_path[@]}"; do
    printf '%-24s %-24s %s\n' "$program" any "$(command -v "$program" || how_else "$program")"
  done
}

how_else() {
  case $1 in
    openssl | curl | mount) echo "missing: install the Debian package $1" ;;
    unshare | nsenter | setpriv) echo 'missing: install the Debian package util-linux' ;;
    *) echo "it knows: $(all_tools | tr '\n' ' ')" ;;
  esac
}

# Runs a command and shows what it printed only if it fails.
quietly() {
  "$@" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    die "failed: $*"
  }
}

die() {
  echo "install.sh: $*" >&2
  exit 1
}

main "$@"
