import type { Logger } from '../../shared/observability/log.ts'
import { headStatement, type LogHead } from '../../shared/replication/chain.ts'
import { signStatement, statementTypes, type Envelope } from '../../shared/trust/statement.ts'
import type { PemPair } from '../../shared/trust/pki.ts'
import type { Secrets } from '../../shared/trust/secrets.ts'
import type { Records } from '../store/database.ts'
import { createKeys, type CaRing, type KeyRing } from '../store/keys.ts'
import { agreeOnTrust, type AgreedKeys, type Trust } from '../store/trust.ts'

/** The signing keys as they are now. */
export interface CurrentKeys {
  /** Those of tokens. */
  jwt(): KeyRing
  /** What edges are told of the log's keys. */
  trust(): Trust
  /** The edges' own CA that issues now, made if need be: `trust` names it once this is there. */
  edgeCa(): Promise<PemPair>
  /** All of them, where there is one already. */
  knownCa(): CaRing | undefined
  /** What signs the log, leases and snapshots. */
  logSigning(): KeyRing['signing']
  /** Whether a list waits to be signed by a root that is kept offline. */
  waitsForRoot(): boolean
  /** Signs where the log ends. */
  signHead(head: LogHead): Envelope
  /** Call when the log says that they changed. */
  readAgain(): void
  /** As above; what was true when it was called is known then. */
  refresh(): Promise<void>
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
  for (const purpose of ['jwt', 'log'] as const) await keys.ring(purpose, new Date())
  await keys.makeRoot(new Date())
  const read = async (before?: AgreedKeys): Promise<AgreedKeys> => {
    const agreed = await agreeOnTrust(records, { issuer, secrets }, new Date())
    if (agreed.pending !== undefined && before?.pending === undefined)
      log.warn(
        { version: agreed.pending.list.version },
        "a list of keys waits for a root that is kept offline: 'outport keys sign' signs it; see docs/keys.md",
      )
    return agreed
  }
  let current = await read()
  const listeners: (() => Promise<void>)[] = []
  /** One after another: what was read last was true last. */
  let reading: Promise<void> = Promise.resolve()
  const refresh = (): Promise<void> => {
    const mine = reading.then(async () => {
      current = await read(current)
      await Promise.all(listeners.map((listener) => listener()))
    })
    reading = mine.catch(() => undefined)
    return mine
  }
  return {
    jwt: () => current.jwt,
    knownCa: () => current.ca,
    logSigning: () => current.log.signing,
    onRead: (listener) => void listeners.push(listener),
    trust: () => current.trust,
    waitsForRoot: () => current.pending !== undefined,
    async edgeCa() {
      if (current.ca !== undefined) return current.ca.issuing
      const { issuing } = await keys.ca(new Date())
      await refresh()
      return issuing
    },
    signHead: (head) =>
      signStatement(statementTypes.head, headStatement(head), current.log.signing),
    readAgain() {
      refresh().catch((err: unknown) => log.error({ err }, 'the keys could not be read again'))
    },
    refresh,
  }
}
