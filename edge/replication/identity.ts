import {
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  X509Certificate,
  type KeyObject,
} from 'node:crypto'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { parseJson } from '../../shared/auth/json.ts'
import { writeFileAtomic } from '../../shared/files/atomic-write.ts'
import { makePrivateFolder } from '../../shared/files/folder.ts'
import { readSmallFile } from '../../shared/files/read-file.ts'
import { parseErrors } from '../../shared/oci/errors.ts'
import { proveKey, renewPath, type RenewRequest } from '../../shared/replication/enrolment.ts'
import { identityFiles } from '../../shared/replication/identity-files.ts'
import { checkJoinAnswer, parseRenewAnswer } from '../../shared/replication/join-answer.ts'
import { StatementError, type Envelope } from '../../shared/trust/statement.ts'
import {
  fingerprintOf,
  openTrustList,
  publicKeyOf,
  type TrustedKey,
  type TrustList,
} from '../../shared/trust/trust-list.ts'
import type { PrimaryAnswer } from '../access/token-relay.ts'

const generateKey = promisify(generateKeyPair)

/** By what this edge proves who it is, and whom it believes: PEM. */
export interface OwnIdentity {
  readonly key: string
  readonly certificate: string
  /** The CAs of the edges' own certificates. */
  readonly ca: readonly string[]
}

export interface Identity {
  /**
   * The identity, with a certificate that counts: a new one is asked for where there is none, or it is a third through.
   * @throws Error that says why there is none
   */
  current(): Promise<OwnIdentity>
  /** A key that signs the log, as far as is known yet. */
  logKey(kid: string): KeyObject | undefined
  /** The epoch that the root has announced, as far as is known yet. */
  epoch(): number | undefined
  /**
   * Believes a list of trusted keys that the root has signed, and keeps it; one that is older than what is kept is
   * passed by: a primary whose database was restored has no other, and is to be told how far it was.
   * @param rotations lists in which a root names the next one, in order
   * @returns what is believed then; undefined while no root is known
   * @throws StatementError when it may not be believed
   */
  take(envelope: Envelope, rotations?: readonly Envelope[]): Promise<TrustList | undefined>
}

export interface IdentityDeps {
  /** Of its own: the one that `outport edge join` made, or one that is made for an edge of the configuration. */
  readonly folder: string
  readonly edge: { readonly id: string; readonly secret: string }
  readonly post: (path: string, body: object) => Promise<PrimaryAnswer>
  readonly now: () => Date
}

/** Roots that may have taken each other's place while an edge was away. */
const maxRotations = 100
/** Of its 90 days it has been used for 30. */
const renewBeforeMs = 60 * 86_400_000

interface Kept {
  readonly key: string
  readonly certificate: string | undefined
  /** Who signs the next list. */
  readonly root: TrustedKey | undefined
  readonly list: TrustList | undefined
}

/** Who this edge is: a key that never leaves it, a certificate for it, and the root that it believes. */
export function createIdentity({ folder, edge, post, now }: IdentityDeps): Identity {
  let kept: Kept | undefined
  let logKeys: ReadonlyMap<string, KeyObject> = new Map()
  const keep = (next: Kept): Kept => {
    kept = next
    // Once for each list: each batch of the feed is checked by one of them.
    logKeys = new Map(next.list?.log.map((key) => [key.id, publicKeyOf(key)]))
    return next
  }
  const known = async (): Promise<Kept> => kept ?? keep(await read())
  const path = (file: string) => join(folder, file)
  const write = (file: string, text: string) => writeFileAtomic(path(file), text, { mode: 0o600 })
  const text = async (file: string) => (await readSmallFile(path(file)))?.toString('utf8')

  const read = async (): Promise<Kept> => {
    await makePrivateFolder(folder)
    let key = await text(identityFiles.key)
    if (key === undefined) {
      const { privateKey } = await generateKey('rsa', { modulusLength: 2048 })
      key = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
      await write(identityFiles.key, key)
    }
    const trust = parseJson((await text(identityFiles.trust)) ?? '') as
      { readonly root: TrustedKey; readonly list: Envelope } | undefined
    const list = trust && openTrustList(trust.list, { root: trust.root })
    const certificate = await text(identityFiles.certificate)
    return { key, certificate, root: list?.root, list }
  }

  /** @param signer the root that signed it, which may name another one in it */
  const keepTrust = async (
    signer: TrustedKey,
    envelope: Envelope,
    list: TrustList,
  ): Promise<void> => {
    const written = { root: signer, list: envelope }
    await write(identityFiles.trust, `${JSON.stringify(written, undefined, 2)}\n`)
    keep({ ...(await known()), root: list.root, list })
  }

  /** @returns what is kept then */
  const keepIfNewer = async (envelope: Envelope, list: TrustList): Promise<TrustList> => {
    const { root, list: before } = await known()
    const isNewer =
      before === undefined || (list.version > before.version && list.issuer === before.issuer)
    if (!isNewer || root === undefined) return before ?? list
    await keepTrust(root, envelope, list)
    return list
  }

  const renew = async ({ key, root }: Kept): Promise<Kept> => {
    const privateKey = createPrivateKey(key)
    const ownKey = createPublicKey(privateKey)
    const publicKey = ownKey.export({ type: 'spki', format: 'pem' }).toString()
    const { id, secret } = edge
    const proof = proveKey({ tokenId: 'renew', name: id, publicKey }, privateKey)
    const request: RenewRequest = { id, secret, publicKey, proof }
    const { status, body } = await post(renewPath, request)
    if (status !== 201)
      throw new Error(
        `the primary gives this edge no certificate: ${parseErrors(body)[0]?.message ?? status}`,
      )
    const answer = parseRenewAnswer(body)
    // An edge of the configuration believes the root that it first meets where its configuration sends it.
    const fingerprint = fingerprintOf((root ?? answer.root).jwk)
    checkJoinAnswer(answer, { fingerprint, publicKey: ownKey, now: now() })
    const list = openTrustList(answer.trust, { root: answer.root })
    await write(identityFiles.edgeCa, answer.ca)
    await write(identityFiles.certificate, answer.certificate)
    await keepTrust(answer.root, answer.trust, list)
    return keep(await read())
  }

  return {
    logKey: (kid) => logKeys.get(kid),
    async current() {
      let own = await known()
      const before = leftMs(own.certificate, now())
      if (before < renewBeforeMs || own.list === undefined || isByOtherCa(own)) {
        try {
          own = await renew(own)
        } catch (error) {
          // One that still counts is tried again with the next connection.
          if (before <= 0 || own.list === undefined) throw error
        }
      }
      const { key, certificate, list } = own
      if (certificate === undefined || list === undefined)
        throw new Error('this edge has no certificate')
      return { key, certificate, ca: list.ca }
    },
    epoch: () => kept?.list?.epoch,
    async take(envelope, rotations = []) {
      for (const rotation of rotations.slice(-maxRotations)) {
        const { root } = await known()
        const named = root && openIfSigned(rotation, root)
        if (named !== undefined) await keepIfNewer(rotation, named)
      }
      const { root, list } = await known()
      if (root === undefined) return undefined
      const fresh = openTrustList(envelope, { root, issuer: list?.issuer })
      return keepIfNewer(envelope, fresh)
    },
  }
}

/** Undefined for one that this root did not sign: it is from before it, or after. */
function openIfSigned(envelope: Envelope, root: TrustedKey): TrustList | undefined {
  try {
    return openTrustList(envelope, { root })
  } catch (error) {
    if (error instanceof StatementError) return undefined
    throw error
  }
}

/**
 * Whether the CA of a certificate issues no more: the one that does stands first. A newer one may issue already, where
 * the root is kept offline and has not said so.
 */
function isByOtherCa({ certificate, list }: Kept): boolean {
  if (certificate === undefined) return false
  const own = new X509Certificate(certificate)
  const all = (list?.ca ?? []).map((pem) => new X509Certificate(pem))
  const [first] = all
  const issuer = all.find((ca) => own.checkIssued(ca))
  if (first === undefined || issuer === first) return false
  return issuer === undefined || issuer.validFromDate <= first.validFromDate
}

/** How long a certificate still counts; nothing without one. */
function leftMs(certificate: string | undefined, now: Date): number {
  if (certificate === undefined) return 0
  return new X509Certificate(certificate).validToDate.getTime() - now.getTime()
}
