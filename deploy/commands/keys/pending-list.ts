import { X509Certificate } from 'node:crypto'
import { parseJson } from '../../../shared/auth/json.ts'
import { isRecord } from '../../../shared/config/record.ts'
import { signPayload, statementTypes } from '../../../shared/trust/statement.ts'
import {
  checkTrustList,
  fingerprintOf,
  type TrustedKey,
  type TrustList,
} from '../../../shared/trust/trust-list.ts'
import type { AdminApi } from '../../admin-api.ts'
import { onOneLine } from '../../one-line.ts'
import { StartError } from '../../start-errors.ts'
import type { RootFile } from './root-file.ts'

/** A list that waits for a root, as the admin API and files have it. */
export interface PendingList {
  readonly payload_type: string
  /** Base64. */
  readonly payload: string
  readonly signers: readonly { readonly id: string; readonly fingerprint: string }[]
  readonly changes: readonly string[]
  readonly signatures: readonly { readonly keyid: string; readonly sig: string }[]
}

/** What is to be signed now; undefined: nothing. */
export async function fetchPending(
  api: AdminApi,
  { nextEpoch = false }: { readonly nextEpoch?: boolean } = {},
): Promise<PendingList | undefined> {
  const { json } = await api.call(`/keys/pending${nextEpoch ? '?epoch=next' : ''}`, {
    absent: 'this primary keeps no root offline: check that --primary is an Outport primary',
  })
  return readPending(json)
}

/** @throws StartError for a text that is something else */
export function parsePending(text: string, path: string): PendingList {
  const pending = readPending(parseJson(text))
  if (pending !== undefined) return pending
  throw new StartError(`${path} holds no list of keys: 'outport keys pending --out FILE' writes it`)
}

function readPending(value: unknown): PendingList | undefined {
  if (!isRecord(value)) return undefined
  const { payload_type, payload, signers, changes, signatures = [] } = value
  if (typeof payload_type !== 'string' || typeof payload !== 'string') return undefined
  const records = (each: unknown) => (Array.isArray(each) ? each.filter(isRecord) : [])
  const textOf = (each: unknown) => (typeof each === 'string' ? each : '')
  return {
    payload_type,
    payload,
    signers: records(signers).map(({ id, fingerprint }) => ({
      id: textOf(id),
      fingerprint: textOf(fingerprint),
    })),
    changes: Array.isArray(changes) ? changes.map(textOf) : [],
    signatures: records(signatures).map(({ keyid, sig }) => ({
      keyid: textOf(keyid),
      sig: textOf(sig),
    })),
  }
}

/**
 * Signs a list by the roots that are here.
 * @throws StartError where it waits for none of them, or is no list of keys: a root signs nothing else
 */
export function signPending(pending: PendingList, roots: readonly RootFile[]): PendingList {
  openPending(pending)
  const payload = Buffer.from(pending.payload, 'base64')
  const made = roots.flatMap(({ path, fingerprint, privateKey }) => {
    const signer = pending.signers.find((each) => each.fingerprint === fingerprint)
    if (signer === undefined)
      throw new StartError(`the list does not wait for the root in ${path} (${fingerprint})`)
    return signPayload(statementTypes.trust, payload, { kid: signer.id, privateKey }).signatures
  })
  const kept = pending.signatures.filter(({ keyid }) => made.every((each) => each.keyid !== keyid))
  return { ...pending, signatures: [...kept, ...made] }
}

/** Those whose signatures a list still waits for. */
function missingSigners({ signers, signatures }: PendingList): PendingList['signers'] {
  return signers.filter(({ id }) => signatures.every(({ keyid }) => keyid !== id))
}

/** For people: what is new in a list by the word of the primary, and all that it says by its own. */
export function describePending(pending: PendingList): string {
  const { version, epoch, root, log, ca } = openPending(pending)
  const lines = [
    ...pending.changes.map((change) => `  ${onOneLine(change)}`),
    `List ${version}, epoch ${epoch}, says:`,
    `  root     ${nameOf(root)}`,
    ...log.map((key) => `  log      ${nameOf(key)}`),
    ...ca.map((pem) => `  edge-ca  ${fingerprintOfCa(pem)}`),
  ]
  return `${lines.join('\n')}\n`
}

function openPending({ payload_type, payload }: PendingList): TrustList {
  const list = parseJson(Buffer.from(payload, 'base64').toString('utf8'))
  try {
    if (payload_type !== statementTypes.trust) throw new Error(payload_type)
    checkTrustList(list)
    return list
  } catch (cause) {
    throw new StartError('what waits to be signed is no list of keys: it is not signed', { cause })
  }
}

function nameOf({ id, jwk }: TrustedKey): string {
  return `${onOneLine(id)} ${fingerprintOf(jwk)}`
}

function fingerprintOfCa(pem: string): string {
  try {
    return new X509Certificate(pem).fingerprint256.replaceAll(':', '').toLowerCase()
  } catch {
    return 'a certificate that cannot be read'
  }
}

/** What the API takes. */
export function signedList({ payload_type, payload, signatures }: PendingList) {
  return { payload_type, payload, signatures }
}

/** Hands a list in. @throws StartError where a signature is missing, or the primary refuses it */
export async function submitPending(api: AdminApi, pending: PendingList): Promise<void> {
  const [missing] = missingSigners(pending)
  if (missing !== undefined)
    throw new StartError(
      `the root ${onOneLine(missing.fingerprint)} must sign the list, too: name its file with another --root`,
    )
  await api.call('/keys/lists', { method: 'POST', body: signedList(pending) })
}
