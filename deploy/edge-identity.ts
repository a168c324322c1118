import { createPrivateKey } from 'node:crypto'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Fallbacks } from '../shared/config/load.ts'
import { isRecord } from '../shared/config/record.ts'
import { isMissing } from '../shared/files/open-files.ts'
import { identityFiles } from '../shared/replication/identity-files.ts'
import { checkKeyPair, parseCertificate } from '../shared/trust/key-pair.ts'
import { openTrustList, type TrustedKey } from '../shared/trust/trust-list.ts'
import { StartError } from './start-errors.ts'

/** Where an edge keeps who it is: written by `outport edge join`, read at each start. */
export function identityPaths(data: string) {
  const edge = join(data, 'edge')
  const folder = join(edge, 'identity')
  return {
    /** The edge's own folder, which is its cache too. */
    edge,
    folder,
    /** The one before, for the moment in which a new one takes its place. */
    replaced: join(edge, 'identity.replaced'),
    /** An attempt to join by this token, finished or not. */
    attempt: (tokenId: string) => join(edge, `${attemptPrefix}${tokenId}`),
  } as const
}

/** What the folders of attempts begin with; a token's id follows. */
export const attemptPrefix = 'identity.joining-'

/** What `edge.json` says. */
export interface EdgeIdentity {
  readonly id: string
  readonly name: string
  readonly site: string
  readonly primary_url: string
  /** Whether somebody allowed its secret to go there over plain http. */
  readonly insecure_http: boolean
}

/** What `trust.json` says: the root that the join token named, and the list that it signed. */
export interface KeptTrust {
  readonly root: TrustedKey
  readonly list: unknown
}

/** Whether this data folder is an edge already, or was about to become another. */
export function hasIdentity(data: string): boolean {
  const { folder, replaced } = identityPaths(data)
  return existsSync(folder) || existsSync(replaced)
}

/**
 * Reads the identity of a data folder whole, and checks what a start would trip over later.
 * @returns undefined when it never joined
 * @throws StartError when others may read it, or a part of it is missing or broken
 */
export function readEdgeIdentity(data: string): EdgeIdentity | undefined {
  const { folder, replaced } = identityPaths(data)
  const status = statSync(folder, { throwIfNoEntry: false })
  if (status === undefined) {
    if (!existsSync(replaced)) return undefined
    throw new StartError(`a join with --replace was cut short in ${folder}: run it again`)
  }
  refuseShared(folder, status.mode)
  for (const file of [identityFiles.key, identityFiles.credential])
    refuseShared(join(folder, file), statSync(join(folder, file), { throwIfNoEntry: false })?.mode)
  const identity = readEdgeFile(folder)
  try {
    checkParts(folder)
  } catch (cause) {
    if (cause instanceof StartError || !(cause instanceof Error) || 'errno' in cause) throw cause
    throw broken(folder, cause.message, cause)
  }
  return identity
}

/**
 * What an edge's configuration need not say where the data folder joined a primary.
 * @throws StartError as `readEdgeIdentity`, and when the configuration is of another edge
 */
export const identityFallbacks: Fallbacks = ({ data, options }) => {
  const identity = readEdgeIdentity(data)
  if (identity === undefined) return undefined
  const { folder } = identityPaths(data)
  const edge = isRecord(options['edge']) ? options['edge'] : {}
  const primary = isRecord(edge['primary']) ? edge['primary'] : {}
  if (typeof edge['id'] === 'string' && edge['id'] !== identity.id) {
    // It brings its own secret, and has nothing to do with the one that joined.
    if (typeof edge['credential_file'] === 'string') return undefined
    throw new StartError(
      `edge.id is '${edge['id']}', but ${folder} is the edge '${identity.id}': leave edge.id out, or set edge.credential_file too`,
    )
  }
  const ca = join(folder, identityFiles.primaryCa)
  return {
    source: folder,
    options: {
      edge: {
        id: identity.id,
        credential_file: join(folder, identityFiles.credential),
        primary: {
          url: identity.primary_url,
          ca: existsSync(ca) ? ca : undefined,
          // It was said of that URL alone.
          insecure_http: primary['url'] === undefined && identity.insecure_http ? true : undefined,
        },
      },
    },
  }
}

/** @param mode undefined: it is not there, which is found out later */
function refuseShared(path: string, mode: number | undefined): void {
  if (mode === undefined || (mode & 0o077) === 0) return
  throw new StartError(
    `${path} may be read by others (mode ${(mode & 0o777).toString(8)}), and holds this edge's secrets: run 'chmod -R go= ${path}'; if it lay open for long, revoke the edge and join anew`,
  )
}

function readEdgeFile(folder: string): EdgeIdentity {
  const value = parseJson(folder, identityFiles.edge)
  if (isRecord(value)) {
    const { id, name, site, primary_url, insecure_http } = value
    if (
      typeof id === 'string' &&
      typeof name === 'string' &&
      typeof site === 'string' &&
      typeof primary_url === 'string' &&
      typeof insecure_http === 'boolean'
    )
      return { id, name, site, primary_url, insecure_http }
  }
  throw broken(folder, `${identityFiles.edge} does not say which edge it is`)
}

function checkParts(folder: string): void {
  const pem = (file: string) => ({ name: file, pem: readPart(folder, file) })
  if (readPart(folder, identityFiles.credential).trim() === '')
    throw broken(folder, `${identityFiles.credential} is empty`)
  const key = pem(identityFiles.key)
  // Read here, since what OpenSSL says of a key is not for people.
  createPrivateKeyOf(folder, key.pem)
  checkKeyPair(pem(identityFiles.certificate), key)
  parseCertificate(pem(identityFiles.edgeCa))
  if (existsSync(join(folder, identityFiles.primaryCa)))
    parseCertificate(pem(identityFiles.primaryCa))
  const trust = parseJson(folder, identityFiles.trust)
  if (!isRecord(trust) || !isTrustedKey(trust['root']))
    throw broken(folder, `${identityFiles.trust} names no root`)
  openTrustList(trust['list'], { root: trust['root'] })
}

function createPrivateKeyOf(folder: string, pem: string): void {
  try {
    createPrivateKey(pem)
  } catch (cause) {
    throw broken(folder, `${identityFiles.key} holds no private key`, cause)
  }
}

function isTrustedKey(value: unknown): value is TrustedKey {
  return isRecord(value) && typeof value['id'] === 'string' && isRecord(value['jwk'])
}

function parseJson(folder: string, file: string): unknown {
  const text = readPart(folder, file)
  try {
    return JSON.parse(text) as unknown
  } catch {
    // What it says would be the file's content.
    throw broken(folder, `${file} is not JSON`)
  }
}

function readPart(folder: string, file: string): string {
  try {
    return readFileSync(join(folder, file), 'utf8')
  } catch (cause) {
    if (isMissing(cause)) throw broken(folder, `${file} is missing`, cause)
    throw cause
  }
}

function broken(folder: string, what: string, cause?: unknown): StartError {
  return new StartError(
    `the identity in ${folder} is broken (${what}): restore it, or join anew with 'outport edge join URL --replace'`,
    { cause },
  )
}
