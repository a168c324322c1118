import { ClientFileError } from './file-error.ts'
import { mergeToml } from './toml-merge.ts'
import { parseToml, stringOf, type TomlStatement } from './toml-statements.ts'
import { tomlString, tomlStrings } from './toml.ts'

/** What the CRI plugin knows of registries without hosts.toml. [containerd 1.x docs/cri/registry.md] */
export interface CriRegistries {
  /** For each registry what is tried for its images, in this order; its own place comes last by itself. */
  readonly mirrors: readonly { readonly registry: string; readonly endpoints: readonly string[] }[]
  readonly configs: readonly CriHost[]
}

/** How to speak to a `host:port`, written exactly as in an endpoint or in the name of an image. */
interface CriHost {
  readonly host: string
  /** PEM file. */
  readonly ca?: string | undefined
  readonly skipVerify?: boolean
  readonly logIn?: { readonly username: string; readonly password: string } | undefined
}

/** The CRI plugin's name by the version of the configuration. */
const plugins: Readonly<Record<string, string>> = {
  '1': 'cri',
  '2': 'io.containerd.grpc.v1.cri',
  '3': 'io.containerd.cri.v1.images',
  '4': 'io.containerd.cri.v1.images',
}

/**
 * The text of containerd's `config.toml` with the tables in it; a file that is not there gets version 2. A table of
 * others with the name of one of ours is taken over.
 * @param existing the file as it is; empty when there is none
 * @throws ClientFileError when the file cannot be read, or names a `config_path`, with which containerd refuses these tables
 */
export function mergeContainerdConfig(existing: string, registries: CriRegistries): string {
  const text = existing.trim() === '' ? 'version = 2\n' : existing
  const statements = parseToml(text)
  const plugin = pluginIn(statements)
  refuseConfigPath(statements)
  return mergeToml({
    existing: text,
    ours: formatCriRegistries(plugin, registries),
    keys: [
      ...['endpoint', 'ca_file', 'insecure_skip_verify'],
      ...['username', 'password', 'auth', 'identitytoken'],
    ],
    place: 'last',
  })
}

function formatCriRegistries(plugin: string, { mirrors, configs }: CriRegistries): string {
  const table = `plugins.${tomlString(plugin)}.registry`
  const tables = mirrors.map(({ registry, endpoints }) => [
    `[${table}.mirrors.${tomlString(registry)}]`,
    `  endpoint = ${tomlStrings(endpoints)}`,
  ])
  for (const { host, ca, skipVerify = false, logIn } of configs) {
    const config = `${table}.configs.${tomlString(host)}`
    const tls = [
      ...(ca === undefined ? [] : [`  ca_file = ${tomlString(ca)}`]),
      ...(skipVerify ? ['  insecure_skip_verify = true'] : []),
    ]
    if (tls.length > 0) tables.push([`[${config}.tls]`, ...tls])
    if (logIn === undefined) continue
    tables.push([
      `[${config}.auth]`,
      `  username = ${tomlString(logIn.username)}`,
      `  password = ${tomlString(logIn.password)}`,
    ])
  }
  return tables.map((lines) => `${lines.join('\n')}\n`).join('\n')
}

interface FullPair {
  readonly path: string
  readonly value: string
  readonly line: number
}

/** Each key with the names of the tables that it is in. */
function fullPairs(statements: readonly TomlStatement[]): readonly FullPair[] {
  let table: readonly string[] = []
  return statements.flatMap((statement) => {
    if (statement.kind === 'table') table = statement.path
    if (statement.kind !== 'pair') return []
    const { key, value, line } = statement
    return [{ path: JSON.stringify([...table, ...key]), value, line }]
  })
}

/** A configuration that says no version is of version 1. */
function pluginIn(statements: readonly TomlStatement[]): string {
  const version = fullPairs(statements).find(({ path }) => path === '["version"]')?.value ?? '1'
  const plugin = plugins[version]
  if (plugin === undefined) {
    throw new ClientFileError(
      `it is of version ${version}; there are ${Object.keys(plugins).join(', ')}`,
    )
  }
  return plugin
}

function refuseConfigPath(statements: readonly TomlStatement[]): void {
  const paths = Object.values(plugins).map((plugin) =>
    JSON.stringify(['plugins', plugin, 'registry', 'config_path']),
  )
  const found = fullPairs(statements).find(
    ({ path, value }) => paths.includes(path) && stringOf(value) !== '',
  )
  if (found === undefined) return
  throw new ClientFileError(
    `line ${found.line} names a config_path, with which containerd takes no mirrors here: leave out --legacy, and hosts.toml is written`,
  )
}
