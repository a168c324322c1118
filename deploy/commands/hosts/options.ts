import { resolve } from 'node:path'
import type { Endpoint, Mirroring } from '../../../shared/clients/mirroring.ts'
import { readSecretFile } from '../../../shared/files/text-file.ts'
import { parseCertificate } from '../../../shared/trust/key-pair.ts'
import { UsageError } from '../../command-line.ts'
import { StartError } from '../../start-errors.ts'
import { readNeeded } from '../certs/folder.ts'
import { parseRegistry } from '../certs/names.ts'
import { nearOptions } from './near-options.ts'

/** The options of every client. */
export const hostsOptions = {
  edge: {
    type: 'string',
    multiple: true,
    value: 'URL',
    help: 'an edge, https://HOST[:PORT]; the nearest first, then the next',
  },
  primary: {
    type: 'string',
    value: 'URL',
    help: 'the primary, whose images are named by its host and port; tried last',
  },
  registry: {
    type: 'string',
    multiple: true,
    value: 'NAME',
    help: 'another registry whose images go through the edges, as images name it: docker.io',
  },
  ca: { type: 'string', value: 'FILE', help: 'the CA of the edges and the primary (PEM)' },
  'plain-http': { type: 'boolean', help: 'allow URLs with http://' },
  'skip-verify': { type: 'boolean', help: 'take any certificate of the edges and the primary' },
  'dry-run': { type: 'boolean', help: 'show what would change, and write nothing' },
  reload: {
    type: 'boolean',
    help: 'have a running client read it, where it can without a restart',
  },
  ...nearOptions,
} as const

/** The options of clients that keep log-ins in their configuration. */
export const logInOptions = {
  username: {
    type: 'string',
    value: 'NAME',
    help: 'log in at the edges and the primary: a pull-only robot',
  },
  'password-file': { type: 'string', value: 'FILE', help: 'the file that holds its password' },
} as const

/** What `hostsOptions` were given as. */
export interface HostsFlags {
  readonly edge: readonly string[]
  readonly primary: string | undefined
  readonly registry: readonly string[]
  readonly ca: string | undefined
  readonly 'plain-http': boolean
  readonly 'skip-verify': boolean
  readonly near: boolean
}

/**
 * What the client is to be told.
 * @param client for the messages
 * @throws UsageError when the edges or the images are missing, or one of them is not what it should be
 */
export function parseMirroring(client: string, flags: HostsFlags): Mirroring {
  if (flags.edge.length === 0 && !flags.near) {
    throw new UsageError(`hosts ${client} needs an edge: --edge https://HOST[:PORT], or --near`)
  }
  const isPlainAllowed = flags['plain-http']
  const edges = flags.edge.map((text) => parseEndpoint('edge', text, isPlainAllowed))
  const primary =
    flags.primary === undefined
      ? undefined
      : parseEndpoint('primary', flags.primary, isPlainAllowed)
  const registries = new Set(flags.registry.map(parseRegistryName))
  if (primary !== undefined) registries.delete(primary.host)
  if (primary === undefined && registries.size === 0) {
    throw new UsageError(
      `hosts ${client} needs to know whose images: --primary URL, or --registry NAME`,
    )
  }
  return {
    edges: edges.filter(({ url }, index) => edges.findIndex((edge) => edge.url === url) === index),
    primary,
    registries: [...registries],
    ca: flags.ca === undefined ? undefined : parsePath('ca', flags.ca),
    skipVerify: flags['skip-verify'],
  }
}

/**
 * The absolute path of a file or folder that is written into a client's configuration, or printed.
 * @throws UsageError when it would not stay on one line
 */
export function parsePath(option: string, text: string): string {
  refuseUnprintable(option, text, /\p{Cc}|[\u2028\u2029]/u)
  return resolve(text)
}

/**
 * The text of the CA.
 * @throws StartError when there is none, KeyPairError when it holds no certificate
 */
export async function readCa({ ca }: Mirroring): Promise<string | undefined> {
  if (ca === undefined) return undefined
  const pem = await readNeeded(ca, 'name the CA of the edges with --ca')
  parseCertificate({ name: ca, pem })
  return pem
}

/**
 * The log-in of `--username` and `--password-file`.
 * @throws UsageError when one of them is missing, StartError when the file holds more than a password
 */
export async function readLogIn(flags: {
  readonly username: string | undefined
  readonly 'password-file': string | undefined
}): Promise<Mirroring['logIn']> {
  const { username, 'password-file': file } = flags
  if ((username === undefined) !== (file === undefined)) {
    throw new UsageError('--username and --password-file go together')
  }
  if (username === undefined || file === undefined) return undefined
  refuseUnprintable('username', username, /[^!-~]/)
  const password = await readSecretFile(file)
  if (/\p{Cc}/u.test(password)) {
    throw new StartError(`${file} should hold one password on one line`)
  }
  return { username, password }
}

/**
 * Where an edge or the primary is.
 * @throws UsageError for what is no origin, and for plain http that nobody allowed
 */
export function parseEndpoint(option: string, text: string, isPlainAllowed: boolean): Endpoint {
  refuseUnprintable(option, text, /[^!-~]/)
  const [, scheme, authority] = /^(https?):\/\/([^/?#@\\]+)\/?$/i.exec(text) ?? []
  if (scheme === undefined || authority === undefined) {
    throw new UsageError(`--${option} must be https://HOST[:PORT] without a path, not '${text}'`)
  }
  const protocol = scheme.toLowerCase()
  if (protocol === 'http' && !isPlainAllowed) {
    throw new UsageError(`--${option} ${text} is plain http, which is written only by --plain-http`)
  }
  const { authority: host } = parseRegistry(authority, option)
  return { url: `${protocol}://${host}`, host }
}

/** Docker Hub has one name in images, and others where it is spoken to. */
const hubNames = new Set(['index.docker.io', 'registry-1.docker.io'])

function parseRegistryName(text: string): string {
  refuseUnprintable('registry', text, /[^!-~]/)
  const { authority } = parseRegistry(text)
  return hubNames.has(authority) ? 'docker.io' : authority
}

function refuseUnprintable(option: string, text: string, pattern: RegExp): void {
  if (!pattern.test(text)) return
  throw new UsageError(`--${option} holds a character that is not allowed: ${escape(text)}`)
}

function escape(text: string): string {
  return JSON.stringify(text).replaceAll(
    /[^ -~]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}
