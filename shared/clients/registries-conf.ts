import { tomlString } from './toml.ts'

/** Where podman asks; `insecure` allows plain http. */
interface Location {
  /** `host:port`, with a path when the mirror is asked by one. */
  readonly location: string
  readonly insecure?: boolean
}

/** One registry and its mirrors, which are tried first, in this order. */
export interface PodmanRegistry extends Location {
  readonly mirrors: readonly Location[]
}

/** The text of `registries.conf` for podman, skopeo, buildah and CRI-O. [containers-registries.conf(5)] */
export function formatRegistriesConf(registries: readonly PodmanRegistry[]): string {
  return registries.map(formatRegistry).join('\n')
}

function formatRegistry({ mirrors, ...registry }: PodmanRegistry): string {
  const sections = [
    ['[[registry]]', `prefix = ${tomlString(registry.location)}`, ...formatLocation(registry)],
    ...mirrors.map((mirror) => ['[[registry.mirror]]', ...formatLocation(mirror)]),
  ]
  return `${sections.map((lines) => lines.join('\n')).join('\n')}\n`
}

function formatLocation({ location, insecure = false }: Location): string[] {
  const lines = [`location = ${tomlString(location)}`]
  if (insecure) lines.push('insecure = true')
  return lines
}
