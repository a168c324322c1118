import { X509Certificate, type KeyObject } from 'node:crypto'
import { isRecord } from '../config/record.ts'
import type { EnrolledEdge, JoinAnswer, RenewAnswer } from './enrolment.ts'
import { StatementError, type Envelope } from '../trust/statement.ts'
import { fingerprintOf, openTrustList, type TrustedKey } from '../trust/trust-list.ts'

/** An answer that may not be believed, or is none; the message says why, and repeats nothing secret. */
export class JoinAnswerError extends Error {
  override readonly name = 'JoinAnswerError'
}

/**
 * Reads the body of an answer to a request to join.
 * @throws JoinAnswerError when it is something else
 */
export function parseJoinAnswer(body: string): JoinAnswer {
  const answer = parseRenewAnswer(body)
  const { secret } = parseJson(body) as { readonly secret?: unknown }
  // It becomes a line of a file, and a password.
  if (typeof secret !== 'string' || !/^[!-~]{16,512}$/.test(secret))
    throw malformed('it brings no secret')
  return { ...answer, secret }
}

/**
 * Reads the body of an answer to a request for a new certificate.
 * @throws JoinAnswerError when it is something else
 */
export function parseRenewAnswer(body: string): RenewAnswer {
  const value = parseJson(body)
  if (!isRecord(value)) throw malformed('it is no JSON object')
  const { edge, certificate, ca, root, trust } = value
  if (!isEnrolledEdge(edge)) throw malformed('it names no edge')
  if (typeof certificate !== 'string' || typeof ca !== 'string')
    throw malformed('it brings no certificate')
  if (!isTrustedKey(root)) throw malformed('it names no root')
  // Its content is believed when the root is seen to have signed it.
  return { edge, certificate, ca, root, trust: trust as Envelope }
}

interface JoinExpectations {
  /** Of the root: from the join token, which an administrator handed over by another way. */
  readonly fingerprint: string
  /** The edge's own. */
  readonly publicKey: KeyObject
  readonly now: Date
}

/**
 * Checks what a primary answered, before any of it is kept: whoever sits between here and there, or stands at a wrong
 * URL, has neither the root's key nor the CA's.
 * @throws JoinAnswerError that says what is wrong
 */
export function checkJoinAnswer(
  { root, trust, ca, certificate }: RenewAnswer,
  { fingerprint, publicKey, now }: JoinExpectations,
): void {
  if (fingerprintOf(root.jwk) !== fingerprint)
    throw new JoinAnswerError('its root is not the one that the join token names')
  const list = openList(trust, root)
  const authority = parse(ca, "the edges' CA")
  if (!list.ca.some((pem) => parse(pem, 'a CA of the list').raw.equals(authority.raw)))
    throw new JoinAnswerError("the root does not name the edges' CA that it brings")
  checkTime(authority, "the edges' CA", now)
  const own = parse(certificate, 'the certificate')
  if (!authority.ca || !own.checkIssued(authority) || !own.verify(authority.publicKey))
    throw new JoinAnswerError("the edges' CA did not issue the certificate")
  checkTime(own, 'the certificate', now)
  if (!own.publicKey.equals(publicKey))
    throw new JoinAnswerError('the certificate is for another key than this edge has')
}

function openList(trust: unknown, root: TrustedKey) {
  try {
    return openTrustList(trust, { root })
  } catch (cause) {
    if (cause instanceof StatementError) throw new JoinAnswerError(cause.message, { cause })
    throw cause
  }
}

function parse(pem: string, what: string): X509Certificate {
  try {
    return new X509Certificate(pem)
  } catch (cause) {
    throw new JoinAnswerError(`${what} is broken`, { cause })
  }
}

function checkTime(certificate: X509Certificate, what: string, now: Date): void {
  const { validFromDate: from, validToDate: to } = certificate
  if (from <= now && now <= to) return
  throw new JoinAnswerError(
    `${what} counts from ${from.toISOString()} to ${to.toISOString()}, and this machine's clock says ${now.toISOString()}: set the clock`,
  )
}

function isEnrolledEdge(value: unknown): value is EnrolledEdge {
  if (!isRecord(value)) return false
  const { id, name, site, region, labels } = value
  return (
    typeof id === 'string' &&
    // As `edge.id` in the configuration, where it will stand.
    /^[a-z0-9]+(?:-[a-z0-9]+)*$/.test(id) &&
    [name, site, region].every((text) => typeof text === 'string') &&
    isRecord(labels) &&
    Object.values(labels).every((label) => typeof label === 'string')
  )
}

function isTrustedKey(value: unknown): value is TrustedKey {
  return isRecord(value) && typeof value['id'] === 'string' && isRecord(value['jwk'])
}

function parseJson(body: string): unknown {
  try {
    return JSON.parse(body) as unknown
  } catch {
    return undefined
  }
}

function malformed(why: string): JoinAnswerError {
  return new JoinAnswerError(`it is not what a primary answers (${why})`)
}
