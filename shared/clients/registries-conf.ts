import { mergeToml, type TomlSection } from './toml-merge.ts'
import { stringOf } from './toml-statements.ts'
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

/**
 * The text with the registries in it. A registry of others with the prefix of one of ours is taken over, with its mirrors:
 * the last of two would win.
 * @param existing the file as it is; empty when there is none
 * @throws ClientFileError when the file cannot be read
 */
export function mergeRegistriesConf(
  existing: string,
  registries: readonly PodmanRegistry[],
): string {
  return mergeToml({
    existing,
    ours: formatRegistriesConf(registries),
    keys: ['prefix', 'location', 'insecure'],
    place: 'last',
    nameOf: prefixOf,
  })
}

/** What it is about: its prefix, else its location. */
function prefixOf({ body }: TomlSection): string | undefined {
  const valueOf = (name: string) =>
    body.flatMap((each) => (each.kind === 'pair' && each.key[0] === name ? [each.value] : []))[0]
  const value = valueOf('prefix') ?? valueOf('location')
  return value === undefined ? undefined : stringOf(value)
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
