import type { JsonWebKey } from 'node:crypto'
import type { SigningKey } from '../../shared/auth/token.ts'
import type { Secrets } from '../../shared/trust/secrets.ts'
import type { TrustedKey } from '../../shared/trust/trust-list.ts'
import { rowsOf, signingKeyOf, type Reading } from './keys.ts'

/** A root: its public half, and what signs, unless that is kept offline. */
export interface RootKey {
  readonly trusted: TrustedKey
  readonly signing: SigningKey | undefined
}

/** The root that edges believe, and the one that is to take its place. */
export interface Roots {
  readonly active: RootKey
  readonly next: RootKey | undefined
}

/** The roots as they are; undefined while there is none. */
export async function readRoots(records: Reading, secrets: Secrets): Promise<Roots | undefined> {
  const rows = await rowsOf(records, 'root')
  const inState = (state: string) => {
    const row = rows.find((each) => each.state === state)
    return (
      row && {
        trusted: trustedKeyOf(row.id, row.public_jwk),
        signing: signingKeyOf(row, secrets),
      }
    )
  }
  const active = inState('active')
  return active && { active, next: inState('next') }
}

/** Its members in one order, whatever the database made of it: lists are compared as text. */
export function trustedKeyOf(id: string, { kty, crv, x, y }: JsonWebKey): TrustedKey {
  const jwk: JsonWebKey = {
    ...(kty !== undefined && { kty }),
    ...(crv !== undefined && { crv }),
    ...(x !== undefined && { x }),
    ...(y !== undefined && { y }),
  }
  return { id, jwk }
}
