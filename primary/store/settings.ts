import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import type { Secrets } from '../../shared/trust/secrets.ts'
import type { BlobStore } from './blobs.ts'
import { DatabaseError, type Records } from './database.ts'

const storeIdName = 'store-id'

/**
 * Makes sure that these records and these bytes belong together: two primaries on one database and two disks
 * would each miss what the other received.
 * @throws DatabaseError in one line when they do not
 */
export async function agreeOnStore(records: Records, blobs: BlobStore): Promise<string> {
  const [known, found] = await Promise.all([readSetting(records, storeIdName), readStoreId(blobs)])
  if (known !== undefined && known === found) return known
  if (known !== undefined && found !== undefined) {
    throw new DatabaseError(
      'the blob folder belongs to another database than the one configured: correct primary.database.url or data',
    )
  }
  if (known !== undefined) return joinEmptyStore(records, { blobs, id: known })
  if (found !== undefined && !(await isEmpty(blobs))) {
    throw new DatabaseError(
      'the blob folder holds blobs of a database that is not this one: restore that database, or choose an empty folder',
    )
  }
  return startStore(records, blobs)
}

/** The first primary on a new database; whichever of several is first decides. */
async function startStore(records: Records, blobs: BlobStore): Promise<string> {
  await blobs.writeRecord(storeIdName, Buffer.from(randomUUID()), { absent: true })
  const id = await readStoreId(blobs)
  if (id === undefined) throw new Error('the blob store lost a record that was just written')
  await putSettingOnce(records, storeIdName, id)
  const agreed = await readSetting(records, storeIdName)
  if (agreed === id) return id
  throw new DatabaseError(
    'another primary has just started with this database and another blob folder: primaries share both or neither',
  )
}

/** A database that knows of no blob has lost nothing with a new folder. */
async function joinEmptyStore(
  records: Records,
  { blobs, id }: { readonly blobs: BlobStore; readonly id: string },
): Promise<string> {
  const row = await records
    .selectFrom('blobs')
    .select('key')
    .where('state', '<>', 'gone')
    .limit(1)
    .executeTakeFirst()
  if (row !== undefined) {
    throw new DatabaseError(
      'the database knows blobs that are not in this folder: correct data, mount the right disk, or restore the blobs',
    )
  }
  await blobs.writeRecord(storeIdName, Buffer.from(id), { absent: true })
  return id
}

/**
 * Makes sure that the key file is the one that the database was written with.
 * @throws DatabaseError in one line when it is another
 */
export async function agreeOnKeyFile(
  records: Records,
  secrets: Secrets,
  path: string,
): Promise<void> {
  await putSettingOnce(records, 'key-fingerprint', secrets.fingerprint)
  if ((await readSetting(records, 'key-fingerprint')) === secrets.fingerprint) return
  throw new DatabaseError(
    `${path} is not the key file that this database was written with: restore it from its backup`,
  )
}

async function readSetting(records: Records, name: string): Promise<string | undefined> {
  const row = await records
    .selectFrom('settings')
    .select('value')
    .where('name', '=', name)
    .executeTakeFirst()
  return row?.value
}

async function putSettingOnce(records: Records, name: string, value: string): Promise<void> {
  await sql`INSERT INTO settings (name, value) VALUES (${name}, ${value}) ON CONFLICT DO NOTHING`.execute(
    records,
  )
}

async function readStoreId(blobs: BlobStore): Promise<string | undefined> {
  return (await blobs.readRecord(storeIdName))?.value.toString()
}

async function isEmpty(blobs: BlobStore): Promise<boolean> {
  for await (const _ of blobs.list()) return false
  return true
}
