import { createPublicKey, type KeyObject } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { lockFolder } from '../shared/files/lock.ts'
import type { HttpResponse } from '../shared/http/client.ts'
import {
  joinPath,
  proveKey,
  type EnrolledEdge,
  type JoinAnswer,
  type JoinRequest,
  type JoinToken,
} from '../shared/replication/enrolment.ts'
import { openDataFolder } from './data-folder.ts'
import { openAttempt, settleReplaced } from './edge-attempt.ts'
import { hasIdentity, identityPaths, type EdgeIdentity, type KeptTrust } from './edge-identity.ts'
import {
  checkJoinAnswer,
  JoinAnswerError,
  parseJoinAnswer,
} from '../shared/replication/join-answer.ts'
import { identityFiles } from '../shared/replication/identity-files.ts'
import { messageOf, redirectOf, waitOf, type PrimaryClient } from './primary-client.ts'
import { StartError } from './start-errors.ts'

interface JoinOptions {
  readonly url: URL
  readonly token: JoinToken
  /** What the machine is called; the edge is called as the token says. */
  readonly name: string
  readonly data: string
  /** PEM of the CAs of the primary's certificate, where the system's do not know it. */
  readonly ca: string | undefined
  readonly insecureHttp: boolean
  /** Takes the place of the identity that the data folder has. */
  readonly replace: boolean
  readonly client: PrimaryClient
  readonly now?: () => Date
}

/**
 * Refuses a data folder that is an edge already.
 * @throws StartError that says what to do
 */
export function refuseJoined(data: string): void {
  if (!hasIdentity(data)) return
  throw new StartError(
    `${data} is an edge already: start it with 'outport edge', or let another identity take its place with --replace`,
  )
}

/**
 * Makes a data folder an edge of a primary: a key of its own, which never leaves it, certified by the primary that the
 * token is of. Nothing of an answer is kept before all of it was checked.
 * @throws StartError when the primary refuses, does not answer, or is not the one that the token is of
 */
export async function joinPrimary(options: JoinOptions): Promise<EnrolledEdge> {
  const { data, token, replace } = options
  await openDataFolder(data)
  const { edge: folder } = identityPaths(data)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const lock = await lockFolder(folder, 'join')
  try {
    await settleReplaced(data)
    // Another one may have joined while the token was typed.
    if (!replace) refuseJoined(data)
    const attempt = await openAttempt(data, token.id)
    const answer = await askPrimary(options, attempt.key)
    await attempt.finish(filesOf(answer, options))
    return answer.edge
  } finally {
    await lock.release()
  }
}

async function askPrimary(
  { url, token, name, client, now = () => new Date() }: JoinOptions,
  privateKey: KeyObject,
): Promise<JoinAnswer> {
  const ownKey = createPublicKey(privateKey)
  const publicKey = ownKey.export({ type: 'spki', format: 'pem' }).toString()
  const request: JoinRequest = {
    token: `${token.id}.${token.secret}`,
    name,
    publicKey,
    proof: proveKey({ tokenId: token.id, name, publicKey }, privateKey),
  }
  const response = await client.ask(joinPath, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(request),
  })
  if (response.status !== 201) throw refusalOf(url, response, token.secret)
  try {
    const answer = parseJoinAnswer(response.body.toString('utf8'))
    checkJoinAnswer(answer, { fingerprint: token.fingerprint, publicKey: ownKey, now: now() })
    return answer
  } catch (cause) {
    if (!(cause instanceof JoinAnswerError)) throw cause
    throw new StartError(
      `the answer of ${url.origin} may not be trusted, and nothing of it was kept: ${cause.message}`,
      { cause },
    )
  }
}

function refusalOf(url: URL, response: HttpResponse, secret: string): StartError {
  // Whatever is there may say again what it was told.
  const said = messageOf(response)?.replaceAll(secret, '…')
  const because = said === undefined ? '' : `: ${said}`
  switch (response.status) {
    case 400:
    case 409:
    case 422:
      return new StartError(`${url.origin} does not take the request${because}`)
    case 401:
      return new StartError(
        `${url.origin} does not take the join token${because}; it is used up, too old, or of another primary: make a new one with 'outport edges token'`,
      )
    case 404:
    case 405:
      return new StartError(
        `${url.origin} knows nothing of edges that join: check that it is the URL of an Outport primary`,
      )
    case 429:
      return new StartError(
        `${url.origin} had too many attempts to join: try again ${waitOf(response)}, with the same token`,
      )
  }
  if (response.status >= 300 && response.status < 400) {
    return new StartError(
      `${url.origin} redirects ${redirectOf(url, response)}, which a join does not follow: give the primary's own URL`,
    )
  }
  return new StartError(
    `${url.origin} answers ${response.status}${because}: try again with the same token, and look into the primary's log if that does not help`,
  )
}

function filesOf(
  { edge, secret, certificate, ca, root, trust }: JoinAnswer,
  options: Pick<JoinOptions, 'url' | 'ca' | 'insecureHttp'>,
): ReadonlyMap<string, string> {
  const identity: EdgeIdentity = {
    id: edge.id,
    name: edge.name,
    site: edge.site,
    primary_url: options.url.origin,
    insecure_http: options.insecureHttp && options.url.protocol === 'http:',
  }
  const kept: KeptTrust = { root, list: trust }
  return new Map([
    [identityFiles.edge, json(identity)],
    [identityFiles.credential, `${secret}\n`],
    [identityFiles.certificate, certificate],
    [identityFiles.edgeCa, ca],
    [identityFiles.trust, json(kept)],
    ...(options.ca === undefined ? [] : [[identityFiles.primaryCa, options.ca] as const]),
  ])
}

function json(value: object): string {
  return `${JSON.stringify(value, undefined, 2)}\n`
}
