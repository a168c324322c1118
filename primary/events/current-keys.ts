import type { Logger } from '../../shared/observability/log.ts'
import { headStatement, type LogHead } from '../../shared/replication/chain.ts'
import { signStatement, statementTypes, type Envelope } from '../../shared/trust/statement.ts'
import type { PemPair } from '../../shared/trust/pki.ts'
import type { Secrets } from '../../shared/trust/secrets.ts'
import type { Records } from '../store/database.ts'
import { createKeys, type KeyRing } from '../store/keys.ts'
import { agreeOnTrust, type Trust } from '../store/trust.ts'

/** The signing keys as they are now. */
export interface CurrentKeys {
  /** Those of tokens. */
  jwt(): KeyRing
  /** What edges are told of the log's keys. */
  trust(): Trust
  /** The edges' own CA, made if need be: `trust` names it once this is there. */
  edgeCa(): Promise<PemPair>
  /** The same, where it is made already. */
  knownCa(): PemPair | undefined
  /** What signs the log, leases and snapshots. */
  logSigning(): KeyRing['signing']
  /** Signs where the log ends. */
  signHead(head: LogHead): Envelope
  /** Call when the log says that they changed. */
  readAgain(): void
  /** Calls back when they were read again; who made the CA waits for what is done then. */
  onRead(listener: () => Promise<void>): void
}

/** @param issuer the installation: its store's id */
export async function openCurrentKeys(
  records: Records,
  {
    secrets,
    issuer,
    log,
  }: { readonly secrets: Secrets; readonly issuer: string; readonly log: Logger },
): Promise<CurrentKeys> {
  const keys = createKeys(records, secrets)
  const read = async () => {
    const now = new Date()
    const jwt = await keys.ring('jwt', now)
    const rings = { root: await keys.ring('root', now), log: await keys.ring('log', now) }
    const ca = await keys.findCa()
    const subjects = { issuer, ...rings, ca: ca === undefined ? [] : [ca.cert] }
    return { jwt, log: rings.log, ca, trust: await agreeOnTrust(records, subjects, now) }
  }
  let current = await read()
  const listeners: (() => Promise<void>)[] = []
  const take = async (fresh: typeof current): Promise<void> => {
    current = fresh
    await Promise.all(listeners.map((listener) => listener()))
  }
  return {
    jwt: () => current.jwt,
    knownCa: () => current.ca,
    logSigning: () => current.log.signing,
    onRead: (listener) => void listeners.push(listener),
    trust: () => current.trust,
    async edgeCa() {
      if (current.ca !== undefined) return current.ca
      const ca = await keys.ca(new Date())
      await take(await read())
      return ca
    },
    signHead: (head) =>
      signStatement(statementTypes.head, headStatement(head), current.log.signing),
    readAgain() {
      read().then(take, (err: unknown) => log.error({ err }, 'the keys could not be read again'))
    },
  }
}
