import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import { headStatement, type LogHead } from '../../shared/replication/chain.ts'
import {
  signStatement,
  statementTypes,
  type Envelope,
  type StatementKey,
} from '../../shared/trust/statement.ts'

/** A key that signs the log, as a primary's does. */
export interface LogKey {
  readonly key: StatementKey
  readonly sign: (head: LogHead) => Envelope
  readonly keyOf: (kid: string) => KeyObject | undefined
}

export function createLogKey(kid = 'log-key'): LogKey {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const key = { kid, privateKey }
  return {
    key,
    sign: (head) => signStatement(statementTypes.head, headStatement(head), key),
    keyOf: (asked) => (asked === kid ? publicKey : undefined),
  }
}
