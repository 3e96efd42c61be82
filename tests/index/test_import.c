/* The importers on miniature layouts, lines and CSV, and images by reference. */
#include "tests/index/sample.h"

#include "index/lines.h"

static importer *open_source(const import_source *s)
{
    importer *im = NULL;
    err       e = {0};
    OK(importer_open(&im, s, &e), e);
    return im;
}

/* The next item; label "" at the end. */
static import_item take(importer *im, const sample *s)
{
    import_item it;
    bool        end;
    err         e = {0};
    OK(im->next(im, &it, &end, s->a, &e), e);
    return end ? (import_item){.label = ""} : it;
}
#define END(im, s) assert_string_equal(take(im, s).label, "")

static void is(const char *got, const char *want)
{
    if (!want) assert_null(got);
    else {
        if (!got) fail_msg("nothing, wanted '%s'", want);
        assert_string_equal(got, want);
    }
}

/* ---- Lines and CSV ---- */

static void lines_are_cut_cleanly(void **state)
{
    sample *s = *state;
    lines  *l;
    char   *line;
    size_t  n;
    bool    too_long;
    err     e = {0};
    FILE   *f = fopen(at(s, "t"), "w");
    fputs("\xef\xbb\xbf" "one\r\n\nthree", f);
    fputc('\n', f);
    for (int i = 0; i < MAX_LINE_BYTES + 5; i++) fputc('x', f);
    fputs("\nlast", f);
    fclose(f);
    OK(lines_open(&l, at(s, "t"), &e), e);
    static const char *const want[] = {"one", "", "three", NULL, "last"};
    for (int i = 0; i < 5; i++) {
        OK(lines_next(l, &line, &n, &too_long, &e), e);
        assert_non_null(line);
        assert_int_equal(lines_number(l), i + 1);
        assert_int_equal(too_long, i == 3);
        if (want[i]) assert_string_equal(line, want[i]);
        else assert_int_equal(n, MAX_LINE_BYTES);
    }
    OK(lines_next(l, &line, &n, &too_long, &e), e);
    assert_null(line);
    assert_true(lines_done(l) >= 1);
    lines_close(l);
    FAILS(lines_open(&l, at(s, "none"), &e), e, ERR_FILE, "No such file");
    FAILS(lines_open(&l, s->dir, &e), e, ERR_FILE, "not a regular file");
}

static void csv_fields_are_split(void **state)
{
    (void)state;
    static const struct { const char *line; int n; const char *f[4];
    } t[] = {{"a,b,c", 3, {"a", "b", "c"}},
             {"", 1, {""}},
             {",", 2, {"", ""}},
             {"\"a,b\",c", 2, {"a,b", "c"}},
             {"\"say \"\"x\"\"\",", 2, {"say \"x\"", ""}},
             {"\"open", -1, {0}},
             {"\"a\"b,c", -1, {0}},
             {"1,2,3,4,5", -1, {0}}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char  line[64], *field[4];
        strcpy(line, t[i].line);
        assert_int_equal(csv_split(line, field, 4), t[i].n);
        for (int j = 0; j < t[i].n; j++) assert_string_equal(field[j], t[i].f[j]);
        if (t[i].n >= 0 && t[i].n < 4) assert_null(field[t[i].n]);
    }
}

/* ---- JSONL and PMC-OA ---- */

static void jsonl_items_carry_what_their_lines_say(void **state)
{
    sample *s = *state;
    FILE   *f = fopen(at(s, "i.jsonl"), "w");
    fprintf(
        f,
        "{\"img_path\": \"a/b.png\", \"text\": \"T\\u00e9xt\", \"id\": 12, \"dataset_source\": \"roco\", \"study\": \"s\", \"patient\": 77,"
        " \"license\": \"CC0\", \"label\": [1], \"title\": null}\n"
        "{\"img_path\": \"%s/x.png\", \"text\": \"t\", \"id\": null}\n"
        "{\"img_path\": \"/etc/passwd\", \"text\": \"t\"}\n"
        "{\"img_path\": \"a/../../b\", \"text\": \"t\"}\n"
        "{\"img_path\": \"a\", \"text\": [\"t\"]}\n"
        "{\"img_path\": \"a\", \"img_path\": \"b\", \"text\": \"t\"}\n"
        "[1]\n",
        s->dir);
    fclose(f);
    importer *im = open_source(&(import_source){.kind = SOURCE_JSONL, .path = at(s, "i.jsonl")});
    assert_string_equal(im->root, s->dir);
    import_item it = take(im, s);
    is(it.label, "line 1"), is(it.source, "roco"), is(it.source_id, "12"), is(it.caption, "T\xc3\xa9xt"),
        is(it.study, "s");
    is(it.patient, "77"), is(it.license, "CC0"), is(it.image, "a/b.png"), is(it.reason, NULL);
    it = take(im, s); /* an absolute path that lies below the root is taken */
    is(it.image, "x.png"), is(it.source, "jsonl"), is(it.source_id, NULL), is(it.study, NULL);
    is(take(im, s).reason, "its image path leaves the images folder");
    is(take(im, s).reason, "its image path leaves the images folder");
    is(take(im, s).reason, "a field has the wrong type");
    is(take(im, s).reason, "not a JSON object");
    is(take(im, s).reason, "not a JSON object");
    END(im, s);
    assert_true(im->done(im) >= 1);
    importer_close(im);
    err e = {0};
    FAILS(
        importer_open(
            &im, &(import_source){.kind = SOURCE_JSONL, .path = at(s, "i.jsonl"), .images = at(s, "nowhere")}, &e),
        e, ERR_FILE, "nowhere: No such file");
    FAILS(
        importer_open(
            &im, &(import_source){.kind = SOURCE_JSONL, .path = at(s, "i.jsonl"), .images = at(s, "i.jsonl")}, &e),
        e, ERR_FILE, "not a folder");
}

static void pmc_oa_figures_belong_to_their_article(void **state)
{
    sample *s = *state;
    put_text(
        at(s, "pmc_oa.jsonl"),
        "{\"image\": \"PMC212319_Fig3_4.jpg\", \"caption\": \"A. Real.\", \"alignment_type\": \"t\", \"alignment_score\": 0.5}\n"
        "{\"image\": \"Fig1.jpg\", \"caption\": \"B.\", \"pmcid\": \"PMC5\"}\n"
        "{\"image\": \"Fig2_1.jpg\", \"caption\": \"C.\"}\n"
        "{\"caption\": \"D.\"}\n");
    mkdir(at(s, "images"), 0777);
    importer *im = open_source(
        &(import_source){.kind = SOURCE_PMC_OA, .path = at(s, "pmc_oa.jsonl"), .images = at(s, "images")});
    import_item it = take(im, s);
    is(it.source, "pmc-oa"), is(it.study, "PMC212319"), is(it.source_id, "PMC212319_Fig3_4.jpg"),
        is(it.caption, "A. Real.");
    is(it.image, "PMC212319_Fig3_4.jpg");
    is(take(im, s).study, "PMC5");
    is(take(im, s).study, NULL);
    is(take(im, s).reason, "image or caption is missing");
    END(im, s);
    importer_close(im);
}

/* ---- MedMNIST ---- */

static void medmnist_captions_turn_by_item(void **state)
{
    sample *s = *state;
    uint8_t pixels[5 * 4] = {0};
    int64_t labels[5] = {0, 1, 0, 0, 9};
    const npy_part parts[] = {
        {"val_images", "|u1", "(5, 2, 2)", pixels, 20}, {"val_labels", "<i8", "(5,)", labels, 40},
        {"odd_images", "|u1", "(4, 2, 2)", pixels, 16}, {"odd_labels", "<i8", "(5,)", labels, 40},
        {"many_images", "|u1", "(2, 2, 2)", pixels, 8}, {"many_labels", "|u1", "(2, 2)", pixels, 4}};
    put_npz(at(s, "x_y.npz"), parts, 6);
    put_text(at(s, "c.json"), "{\"0\": [\"zero a\", \"zero b\", \"zero c\"], \"1\": [\"one\"]}");
    import_source src = {
        .kind = SOURCE_MEDMNIST, .path = at(s, "x_y.npz"), .split = "val", .captions = at(s, "c.json")};
    importer     *im = open_source(&src);
    import_item   it = take(im, s);
    is(it.caption, "zero a"), is(it.image, "x_y.npz#val/0"), is(it.source_id, "val/0"), is(it.source, "x_y"),
        is(it.label, "val/0");
    is(take(im, s).caption, "one");
    is(take(im, s).caption, "zero c"); /* item 2 of label 0: caption 2 mod 3, counted over all items */
    is(take(im, s).caption, "zero a");
    is(take(im, s).reason, "the captions file has no text for label 9");
    END(im, s);
    importer_close(im);

    err e = {0};
    src.split = "odd";
    FAILS(importer_open(&im, &src, &e), e, ERR_FILE, "4 images but 5 labels");
    src.split = "many";
    FAILS(importer_open(&im, &src, &e), e, ERR_FILE, "not one label an item");
    src.split = "none";
    FAILS(importer_open(&im, &src, &e), e, ERR_FILE, "none_labels.npy: no such array");
    src.captions = NULL;
    FAILS(importer_open(&im, &src, &e), e, ERR_USAGE, "needs --captions");
    src.captions = at(s, "c2.json");
    src.split = "val";
    put_text(src.captions, "[]");
    FAILS(importer_open(&im, &src, &e), e, ERR_FILE, "not an object of captions");
    src.path = at(s, "x.npy");
    FAILS(importer_open(&im, &src, &e), e, ERR_USAGE, "ends in .npz");
}

/* ---- ROCO ---- */

static void roco_figures_are_found_by_either_name(void **state)
{
    sample *s = *state;
    put_text(at(s, "r/captions.txt"),
             "ROCO_00020\t Axial CT of the pelvis. \nROCO_00027\t  Radiograph.\nROCO_00059\tOther.\n"
             "no tab here\n\nROCO_1/2\tBad ID.\nROCO_9\t \n");
    put_text(at(s, "r/licences.txt"),
             "ROCO_ID,PMC_ID,CC\nROCO_00027,PMC27_b.jpg,CC BY-NC\nROCO_00020,PMC3970251_CRIONM-1.003.jpg,CC BY\n"
             "malformed\n");
    put_text(at(s, "r/images/PMC3970251_CRIONM-1.003.jpg"), "x");
    importer   *im = open_source(&(import_source){.kind = SOURCE_ROCO, .path = at(s, "r")});
    import_item it = take(im, s);
    is(it.source_id, "ROCO_00020"), is(it.caption, "Axial CT of the pelvis."), is(it.study, "PMC3970251"),
        is(it.license, "CC BY");
    is(it.image, "images/PMC3970251_CRIONM-1.003.jpg"), is(it.source, "roco");
    it = take(im, s);
    is(it.image, "images/ROCO_00027.jpg"), is(it.license, "CC BY-NC"), is(it.caption, "Radiograph.");
    it = take(im, s);
    is(it.image, "images/ROCO_00059.jpg"), is(it.license, NULL), is(it.study, NULL);
    is(take(im, s).reason, "not of the form ID, tab, caption");
    is(take(im, s).reason, "its ID is no file name");
    it = take(im, s);
    is(it.caption, ""), is(it.reason, NULL); /* empty captions are the builder's to refuse, for every source alike */
    END(im, s);
    importer_close(im);
    err e = {0};
    FAILS(importer_open(&im, &(import_source){.kind = SOURCE_ROCO, .path = at(s, "r/images")}, &e), e, ERR_FILE,
          "captions.txt");
}

/* ---- MIMIC ---- */

static void findings_are_cut_at_the_right_places(void **state)
{
    sample *s = *state;
    static const struct { const char *report, *want, *why; } t[] = {
        {" FINAL REPORT\n FINDINGS:  The lungs\n are clear.\n\n IMPRESSION:  Normal.", "The lungs are clear.", NULL},
        /* no IMPRESSION header */
        {"FINDINGS:\n \n Heart size\r\n normal. ", "Heart size normal.", NULL},
        /* order turned round */
        {"IMPRESSION: Early. FINDINGS: Late. CONCLUSION: x IMPRESSION: y", "Late.", NULL},
        {"EXAM: x FINDINGS: a. NOTIFICATION: told. IMPRESSION: b", "a.", NULL},
        {"FINDINGS: one. FINDINGS: two.", "one. FINDINGS: two.", NULL},
        {"NON-FINDINGS: x\nIMPRESSION: Normal.", NULL, "no FINDINGS section"},
        {"FINDINGS AND IMPRESSION: both", NULL, "no FINDINGS section"},
        {"", NULL, "no FINDINGS section"},
        {"FINDINGS:\n\n IMPRESSION: Normal.", NULL, "section is empty"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        const char *got, *why;
        err         e = {0};
        OK(mimic_findings(&got, &why, t[i].report, s->a, &e), e);
        is(got, t[i].want);
        if (!got) assert_non_null(strstr(why, t[i].why));
    }
}

static void mimic_gives_frontal_views_with_findings(void **state)
{
    sample *s = *state;
    put_text(at(s, "m/mimic-cxr-2.0.0-metadata.csv"),
             "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows\n"
             "aa-01,10000032,50414267,\"CHEST (PA, LAT)\",PA,3056\n"
             "aa-02,10000032,50414267,CHEST,LATERAL,3056\n"
             "bb-01,10000764,57375967,CHEST,AP,2544\n"
             "cc-01,10000898,50771383,CHEST,PA,2544\n"
             "dd-01,10000935,50578979,CHEST,,2544\n"
             "../x,10000935,50578979,CHEST,AP,2544\n"
             "ee-01,10000935,\"50578979,CHEST,AP,2544\n");
    put_text(at(s, "m/files/p10/p10000032/s50414267.txt"),
             "FINDINGS: No pneumothorax,\n no effusion.\nIMPRESSION: None.");
    put_text(at(s, "m/files/p10/p10000764/s57375967.txt"), "IMPRESSION: Nothing else.");
    importer   *im = open_source(&(import_source){.kind = SOURCE_MIMIC, .path = at(s, "m")});
    import_item it = take(im, s);
    is(it.source, "mimic-cxr"), is(it.source_id, "aa-01"), is(it.patient, "10000032"), is(it.study, "50414267");
    is(it.caption, "No pneumothorax, no effusion."), is(it.image, "files/p10/p10000032/s50414267/aa-01.jpg"),
        is(it.reason, NULL);
    it = take(im, s);
    is(it.label, "line 4"), is(it.reason, "the report has no FINDINGS section");
    is(take(im, s).reason, "its report cannot be read");
    is(take(im, s).reason, "dicom_id, subject_id or study_id is malformed");
    is(take(im, s).reason, "malformed CSV line");
    END(im, s);
    importer_close(im);

    err e = {0};
    mkdir(at(s, "empty"), 0777);
    FAILS(importer_open(&im, &(import_source){.kind = SOURCE_MIMIC, .path = at(s, "empty")}, &e), e, ERR_FILE,
          "unpack the .csv.gz first");
    put_text(at(s, "empty/mimic-cxr-2.1.0-metadata.csv"), "dicom_id,subject_id,study_id\n");
    FAILS(importer_open(&im, &(import_source){.kind = SOURCE_MIMIC, .path = at(s, "empty")}, &e), e, ERR_FILE,
          "no column ViewPosition");
}

/* ---- Memory ---- */

static bool read_through(const import_source *src, arena *a, err *e)
{
    importer   *im = NULL;
    import_item it;
    bool        end = false, ok = importer_open(&im, src, e);
    while (ok && !end) ok = im->next(im, &it, &end, a, e);
    importer_close(im);
    return ok;
}

static void running_out_of_memory_is_an_error_and_leaks_nothing(void **state)
{
    sample        *s = *state;
    uint8_t        pixels[8] = {0};
    const npy_part parts[] = {{"train_images", "|u1", "(2, 2, 2)", pixels, 8},
                              {"train_labels", "|u1", "(2,)", pixels, 2}};
    put_npz(at(s, "x.npz"), parts, 2);
    put_text(at(s, "c.json"), "{\"0\": [\"a\"]}");
    put_text(at(s, "r/captions.txt"), "ROCO_2\tA.\nROCO_1\tB.\n");
    put_text(at(s, "r/licences.txt"), "ROCO_1,PMC1_a.jpg,CC0\nROCO_2,PMC2_b.jpg,CC0\n");
    put_text(at(s, "p.jsonl"), "{\"image\": \"PMC1_a.jpg\", \"caption\": \"A.\"}\n");
    put_text(at(s, "m/mimic-cxr-2.0.0-metadata.csv"),
             "dicom_id,subject_id,study_id,ViewPosition\naa,10000032,50414267,PA\n");
    put_text(at(s, "m/files/p10/p10000032/s50414267.txt"), "FINDINGS: Clear.");
    const import_source src[] = {{.kind = SOURCE_MEDMNIST, .path = at(s, "x.npz"), .captions = at(s, "c.json")},
                                 {.kind = SOURCE_ROCO, .path = at(s, "r")},
                                 {.kind = SOURCE_PMC_OA, .path = at(s, "p.jsonl")},
                                 {.kind = SOURCE_MIMIC, .path = at(s, "m")}};
    for (int i = 0; i < 4; i++) {
        bool done = false;
        long n = 0;
        for (; !done; n++) {
            err    e = {0};
            arena *a = arena_new(0);
            mem_fail_after(n);
            bool ok = read_through(&src[i], a, &e);
            done = mem_fail_after(-1) <= n;
            assert_int_equal(e.code, ok ? ERR_NONE : ERR_MEMORY);
            arena_free(a);
        }
        assert_true(n > 5);
    }
}

/* ---- Images ---- */

static void images_are_loaded_by_reference(void **state)
{
    sample *s = *state;
    uint8_t pixels[4 * 2 * 3 * 3];
    for (int i = 0; i < 72; i++) pixels[i] = (uint8_t)(i * 3);
    const npy_part parts[] = {{"train_images", "|u1", "(4, 2, 3, 3)", pixels, 72},
                              {"test_images", "|u1", "(12, 2, 3)", pixels, 72},
                              {"deep_images", "<i2", "(6, 2, 3)", pixels, 72},
                              {"flat_images", "|u1", "(8, 9)", pixels, 72}};
    put_npz(at(s, "d/x.npz"), parts, 4);
    put_png(s, at(s, "d/p.png"), 5, 3, 0x0a0b0c);
    put_text(at(s, "d/bad.png"), "nothing");
    image_store *st = image_store_new();
    stored_image im;
    image        again;
    err          e = {0};
    OK(image_store_load(st, s->dir, "d/x.npz#train/3", &im, s->a, &e), e);
    assert_int_equal(im.pixels.width, 3);
    assert_int_equal(im.pixels.height, 2);
    assert_memory_equal(im.pixels.rgb, pixels + 3 * 18, 18);
    assert_false(im.is_file);
    OK(image_decode(&again, im.bytes, im.n, &IMAGE_LIMITS, s->a, &e), e);
    assert_memory_equal(again.rgb, im.pixels.rgb, 18);
    OK(image_store_load(st, s->dir, "d/x.npz#test/11", &im, s->a, &e), e);
    for (int i = 0; i < 18; i++) assert_int_equal(im.pixels.rgb[i], pixels[66 + i / 3]);
    OK(image_store_load(st, s->dir, "d/p.png", &im, s->a, &e), e);
    assert_true(im.is_file);
    assert_int_equal(im.pixels.rgb[0], 0x0c);
    FAILS(image_store_load(st, s->dir, "d/x.npz#train/4", &im, s->a, &e), e, ERR_INPUT, "has 4 rows, no row 4");
    FAILS(image_store_load(st, s->dir, "d/x.npz#train/", &im, s->a, &e), e, ERR_INPUT, "FILE.npz#SPLIT/ROW");
    FAILS(image_store_load(st, s->dir, "d/x.npz#train/1x", &im, s->a, &e), e, ERR_INPUT, "FILE.npz#SPLIT/ROW");
    FAILS(image_store_load(st, s->dir, "d/x.npz#/1", &im, s->a, &e), e, ERR_INPUT, "FILE.npz#SPLIT/ROW");
    FAILS(image_store_load(st, s->dir, "d/x.npz#train/99999999999999999999", &im, s->a, &e), e, ERR_INPUT,
          "FILE.npz#SPLIT/ROW");
    FAILS(image_store_load(st, s->dir, "d/x.npz#val/0", &im, s->a, &e), e, ERR_FILE, "no such array");
    FAILS(image_store_load(st, s->dir, "d/x.npz#deep/0", &im, s->a, &e), e, ERR_FILE, "not an array of images");
    FAILS(image_store_load(st, s->dir, "d/x.npz#flat/0", &im, s->a, &e), e, ERR_FILE, "not an array of images");
    FAILS(image_store_load(st, s->dir, "d/y.npz#train/0", &im, s->a, &e), e, ERR_FILE, "y.npz");
    FAILS(image_store_load(st, s->dir, "d/bad.png", &im, s->a, &e), e, ERR_UNSUPPORTED, "");
    FAILS(image_store_load(st, s->dir, "../p.png", &im, s->a, &e), e, ERR_INPUT, "leaves the images folder");
    /* More arrays than are kept open. */
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 11; i++) {
            char ref[64];
            if (round == 0) put_npz(at(s, "m/%d.npz", i), parts, 1);
            snprintf(ref, sizeof ref, "m/%d.npz#train/%d", i, i % 4);
            OK(image_store_load(st, s->dir, ref, &im, s->a, &e), e);
            assert_memory_equal(im.pixels.rgb, pixels + i % 4 * 18, 18);
        }
    image_store_free(st);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SAMPLE_TEST(lines_are_cut_cleanly),
        SAMPLE_TEST(csv_fields_are_split),
        SAMPLE_TEST(jsonl_items_carry_what_their_lines_say),
        SAMPLE_TEST(pmc_oa_figures_belong_to_their_article),
        SAMPLE_TEST(medmnist_captions_turn_by_item),
        SAMPLE_TEST(roco_figures_are_found_by_either_name),
        SAMPLE_TEST(findings_are_cut_at_the_right_places),
        SAMPLE_TEST(mimic_gives_frontal_views_with_findings),
        SAMPLE_TEST(running_out_of_memory_is_an_error_and_leaks_nothing),
        SAMPLE_TEST(images_are_loaded_by_reference),
    };
    return cmocka_run_group_tests_name("import", tests, NULL, NULL);
}
